"""The strangers of `starry chaos --scenario dds_flood`, with real DDS."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable

import pytest
from conftest import World

from starry_ros.ros.flood import ALONE, Strangers


def until(so: Callable[[], object], timeout_s: float = 60.0) -> None:
    end_s = time.monotonic() + timeout_s
    while not so():
        assert time.monotonic() < end_s
        time.sleep(0.02)


@pytest.fixture
def strangers(world: World, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("ROS_DOMAIN_ID", str(world.domain))
    strangers = Strangers()
    until(lambda: strangers.loaded)
    yield strangers
    strangers.leave()


def test_strangers_wait_for_the_word_and_say_if_nobody_is_there_to_be_flooded(strangers: Strangers) -> None:
    assert strangers.ended is None
    strangers.flood(1.0)
    until(lambda: strangers.ended is not None)
    assert strangers.ended == ALONE


def test_strangers_that_died_fail_no_play_by_themselves(strangers: Strangers) -> None:
    strangers._process.kill()
    until(lambda: strangers.ended is not None)
    strangers.flood(1.0)
    strangers.leave()
    assert strangers.ended == -signal.SIGKILL


def test_strangers_who_never_hear_the_word_leave_when_they_are_sent(strangers: Strangers) -> None:
    strangers.leave()
    assert strangers.ended is not None
