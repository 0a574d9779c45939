"""Plans made again from a recording: the same bits from the same planner, and the first difference from another."""

from __future__ import annotations

import dataclasses
import itertools
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from recording_kit import SPEC, SmallPlanner, write_session

from starry_ros.errors import DataError
from starry_ros.recording.reader import Heard, Recording
from starry_ros.recording.replay import Outcome, Session, replay, summary_rows
from starry_ros.recording.session_file import SessionFile


def played(path: Path, **planner: float) -> Outcome:
    recording = Recording(path)
    return list(replay(recording, Session.read(recording, SPEC), lambda _: SmallPlanner(**planner)))[-1]


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("session") / "a.mcap"
    write_session(path)
    return path


def test_the_same_planner_gives_the_same_bits_through_sentences_and_epochs(session: Path) -> None:
    outcome = played(session)
    assert [c.chunk_id for c in outcome.compared] == list(range(1, 13))
    assert all(c.exact for c in outcome.compared)
    assert outcome.skipped == {}
    assert outcome.first_beyond(0.0) is None
    assert [(row["epoch"], row["plans"], row["same bits"]) for row in summary_rows(outcome, 0.0)] == [
        ("1", 6, 6), ("2", 6, 6), ("all", 12, 12),
    ]


def test_a_changed_weight_is_found_and_the_first_chunk_named(session: Path) -> None:
    first = played(session, weight=1.0 + 1e-9, weight_from=4).first_beyond(0.0)
    assert first is not None
    assert (first.chunk_id, first.epoch, first.step) == (5, 1, 15)
    assert 0 < first.difference < 1e-9
    outcome = played(session, weight=1.5, weight_from=0)
    assert outcome.first_beyond(1e-3).chunk_id == 1
    mean = outcome.compared[0].difference / (0.1 * 0.5)
    assert 0.49 < mean < 0.51, "the mean of noise, which the plan takes by a tenth"
    assert played(session, weight=1.0 + 1e-9).first_beyond(1e-6) is None


def test_of_several_canvases_with_one_stamp_the_one_planned_on_is_taken(tmp_path: Path) -> None:
    write_session(tmp_path / "a.mcap", twins=True)
    outcome = played(tmp_path / "a.mcap")
    assert len(outcome.compared) == 12
    assert all(c.exact for c in outcome.compared)


def test_what_follows_a_lost_canvas_is_not_called_different(tmp_path: Path) -> None:
    path = tmp_path / "a.mcap"
    write_session(path, skip=lambda index: index == 2)
    outcome = played(path)
    assert [c.chunk_id for c in outcome.compared] == [1, 2, *range(7, 13)]
    assert all(c.exact for c in outcome.compared)
    assert outcome.skipped == {"a canvas of its epoch was not recorded": 4}


def test_a_recording_that_began_too_late_plays_from_its_next_epoch(session: Path) -> None:
    recording = Recording(session)
    whole = Session.read(recording, SPEC)
    late = dataclasses.replace(whole, steps=whole.steps[5:])
    outcome = list(replay(recording, late, lambda _: SmallPlanner()))[-1]
    assert [c.chunk_id for c in outcome.compared] == list(range(7, 13)), "the epoch is counted up to, for the noise"
    assert outcome.skipped == {"its epoch began before the recording": 5}
    assert all(c.exact for c in outcome.compared)


def test_a_recording_without_plans_or_contract_says_so(tmp_path: Path) -> None:
    path = tmp_path / "a.mcap"
    SessionFile(path, {}, {}).close()
    with pytest.raises(DataError, match="holds no plan"):
        Session.read(Recording(path), SPEC)
    with pytest.raises(DataError, match=r"holds no robot contract. Fix: give one with --robot"):
        Recording(path).spec()
    cut = tmp_path / "cut.mcap"
    cut.write_bytes(path.read_bytes()[:200])
    with pytest.raises(DataError, match=r"starry record --recover"):
        Recording(cut)


def test_a_recording_of_an_older_version_says_so(session: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recording = Recording(session)
    log = json.dumps({"do": "plan", "chunk": 1, "rung": "full", "committed": 0})
    monkeypatch.setattr(recording, "messages", lambda *_: [Heard("planning_log", 0, 0, SimpleNamespace(data=log))])
    with pytest.raises(DataError, match=r"does not say what its plans went on from.*Fix: record again"):
        Session.read(recording, SPEC)


def test_the_contract_in_the_file_is_the_contract(session: Path) -> None:
    assert Recording(session).spec().content_hash == SPEC.content_hash


def test_messages_that_the_nodes_refused_are_left_out_and_counted(
    session: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recording = Recording(session)
    broken = Heard("action_chunk", 0, 0, SimpleNamespace(joint_names=[], positions=[1.0]))
    nan = SimpleNamespace(name=list(SPEC.joint_names), position=[np.nan] * len(SPEC.joint_names), velocity=[],
                          header=SimpleNamespace(stamp=SimpleNamespace(sec=1, nanosec=0)))
    sound, read = Session.read(recording, SPEC), recording.messages
    spoilt = [broken, Heard(SPEC.joint_state_topic, 0, 0, nan)]
    monkeypatch.setattr(recording, "messages", lambda *topics: itertools.chain(spoilt, read(*topics)))
    found = Session.read(recording, SPEC)
    assert found.unusable == {"action_chunk": 1, SPEC.joint_state_topic: 1}
    assert found.chunks.keys() == sound.chunks.keys()
    assert found.states.keys() == sound.states.keys()
