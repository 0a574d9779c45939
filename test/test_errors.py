"""Errors keep their words on the way from a worker process."""

from __future__ import annotations

import pickle

import pytest

from starry_ros import errors
from starry_ros.training.pool import run_jobs

KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.StarryError)]


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_survives_pickling(kind: type[errors.StarryError]) -> None:
    error = kind("here", "is wrong", got=[1, 2], expected="three", fix="count again")
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is kind
    assert str(again) == str(error) == "here: is wrong; got [1, 2]; expected three. Fix: count again"
    assert str(pickle.loads(pickle.dumps(kind("here", "is wrong")))) == "here: is wrong"


def fail(number: int) -> int:
    raise errors.DataError(f"episode {number}", "cannot be made")


def test_the_error_of_a_worker_is_the_error_of_the_run() -> None:
    with pytest.raises(errors.DataError, match="cannot be made"):
        list(run_jobs(fail, [1, 2], workers=2))
