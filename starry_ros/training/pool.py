"""Many independent jobs in worker processes of one thread each."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from multiprocessing import get_context
from typing import TypeVar

Job = TypeVar("Job")
Result = TypeVar("Result")
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def run_jobs(work: Callable[[Job], Result], jobs: Sequence[Job], workers: int) -> Iterator[Result]:
    """Results of `work` in the order they finish. One worker means this process, on one thread as the others are.

    Ctrl-C ends the workers at once; an error of `work` is raised here and drops the jobs that have not begun.
    """
    if workers <= 1:
        for job in jobs:
            with one_thread():
                result = work(job)
            yield result
        return
    before = {name: os.environ.get(name) for name in ONE_THREAD}
    os.environ.update(ONE_THREAD)
    pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_die_on_interrupt)
    try:
        futures = _submit(pool, work, jobs)
        for future in as_completed(futures):
            yield future.result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def one_thread() -> Iterator[None]:
    """PyTorch computes on one thread within: sums over several are rounded otherwise."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _submit(pool: ProcessPoolExecutor, work: Callable[[Job], Result], jobs: Sequence[Job]) -> list[Future[Result]]:
    """Start the workers deaf to Ctrl-C until they can die of it quietly: importing, they would print tracebacks."""
    main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGINT, signal.SIG_IGN) if main else None
    try:
        return [pool.submit(work, job) for job in jobs]
    finally:
        if main:
            signal.signal(signal.SIGINT, before)


def _die_on_interrupt() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
