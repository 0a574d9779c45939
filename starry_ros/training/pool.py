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


class Workers:
    """Processes that take jobs until the end of a `with` block, so that what they have loaded serves many calls.

    One worker means this process, on one thread as the others are. Whoever leaves the block drops the jobs that have
    not begun; Ctrl-C ends the workers at once.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._pool: ProcessPoolExecutor | None = None
        self._before: dict[str, str | None] = {}

    def __enter__(self) -> Workers:
        if self._count > 1:
            self._before = {name: os.environ.get(name) for name in ONE_THREAD}
            os.environ.update(ONE_THREAD)
            self._pool = ProcessPoolExecutor(self._count, get_context("spawn"), initializer=_die_on_interrupt)
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is None:
            return
        self._pool.shutdown(wait=True, cancel_futures=True)
        for name, value in self._before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value

    def run(self, work: Callable[[Job], Result], jobs: Sequence[Job]) -> Iterator[Result]:
        """Results of `work` in the order they finish; an error of `work` is raised here."""
        if self._pool is None:
            for job in jobs:
                with one_thread():
                    result = work(job)
                yield result
            return
        for future in as_completed(_submit(self._pool, work, jobs)):
            yield future.result()


HERE = Workers(1)
"""This process alone."""


def run_jobs(work: Callable[[Job], Result], jobs: Sequence[Job], workers: int) -> Iterator[Result]:
    """Results of `work` in the order they finish, from workers of its own."""
    with Workers(workers) as pool:
        yield from pool.run(work, jobs)


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
