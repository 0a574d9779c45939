"""Jobs of one worker run as they do in many: on one thread each."""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch

from starry_ros.training.pool import ONE_THREAD, Workers, one_thread, run_jobs


def product(seed: int) -> tuple[int, bytes]:
    """Threads of this process, and the bits of a sum that several threads would round otherwise."""
    rng = np.random.default_rng(seed)
    image, kernel = (torch.from_numpy(rng.standard_normal(shape, dtype=np.float32))
                     for shape in ((1, 32, 40, 48), (48, 32, 3, 3)))
    return torch.get_num_threads(), torch.nn.functional.conv2d(image, kernel).numpy().tobytes()


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("two_threads")
def test_one_worker_computes_the_bits_of_two_and_leaves_the_threads_as_they_were() -> None:
    alone = []
    for found in run_jobs(product, range(4), workers=1):
        assert torch.get_num_threads() == 2, "also between jobs"
        alone.append(found)
    assert {threads for threads, _ in alone} == {1}
    assert sorted(alone) == sorted(run_jobs(product, range(4), workers=2))


@pytest.mark.usefixtures("two_threads")
def test_a_job_that_fails_leaves_the_threads_as_they_were() -> None:
    with pytest.raises(ZeroDivisionError):
        list(run_jobs(lambda number: 1 / number, [0], workers=1))
    with pytest.raises(KeyError), one_thread():
        raise KeyError("inside")
    assert torch.get_num_threads() == 2


def process(number: int) -> int:
    return os.getpid() if number else 1 // number


def test_what_a_worker_has_loaded_serves_later_calls_and_an_error_does_not_end_it() -> None:
    before = {name: os.environ.get(name) for name in ONE_THREAD}
    with Workers(2) as workers:
        first = set(workers.run(process, range(1, 9)))
        with pytest.raises(ZeroDivisionError):
            list(workers.run(process, [0]))
        later = set(workers.run(process, range(1, 9)))
        assert len(first | later) <= 2
        assert os.getpid() not in first | later
    assert {name: os.environ.get(name) for name in ONE_THREAD} == before
    with Workers(1) as alone:
        assert set(alone.run(process, [1, 2])) == {os.getpid()}
