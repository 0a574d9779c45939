"""Jobs of one worker run as they do in many: on one thread each."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from starry_ros.training.pool import one_thread, run_jobs


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
