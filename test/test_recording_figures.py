"""Figures of a recording against sessions whose figures are known; the page is whole and needs no network."""

from __future__ import annotations

import dataclasses
import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from builtin_interfaces.msg import Duration
from recording_kit import SPEC, S, Writer, image_message, write_session
from starry_ros.msg import ExecutorStatus
from std_msgs.msg import Float64MultiArray
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from starry_ros.recording.figures import Figures, Moment, Series, lost_share, measure, summary, worst_moments
from starry_ros.recording.page import page
from starry_ros.recording.plots import Bar, Line, curves, histogram, largest, stretches, thinned, ticks, timeline
from starry_ros.recording.reader import Recording
from starry_ros.ros.convert import to_stamp


def more(writer: Writer) -> None:
    """Executor status, a command of known jerk, and head frames of which every tenth is missing."""
    for index in range(48):
        mode, slack = ("FAULT", 0.2) if index >= 40 else ("RUN", -0.3 if index == 20 else 1.0)
        writer.write("/executor_status", 0.1 * index, ExecutorStatus(
            mode_name=mode, reason="tracking" if mode == "FAULT" else "armed", chunk_id=1, slack_s=slack,
            chunk_age_s=0.3, stall_share=0.01 if index >= 20 else 0.0, joint_names=list(SPEC.joint_names),
            limit_share=[0.0] * 13 + [0.25], refused_reasons=["stale"] if index >= 30 else [],
            refused_counts=[2] if index >= 30 else [], ticks=480, missed_ticks=3,
        ))
    arm = SPEC.arms[0]
    jerk = np.array([joint.jerk for joint in arm.joints])
    points = [  # acceleration rises by half of each joint's jerk limit
        JointTrajectoryPoint(positions=[0.0] * 7, velocities=[0.0] * 7, accelerations=(0.5 * jerk * t).tolist(),
                             time_from_start=Duration(sec=0, nanosec=round(t * S)))
        for t in (0.02, 0.04, 0.06)
    ]
    command = JointTrajectory(joint_names=[j.name for j in arm.joints], points=points)
    command.header.stamp = to_stamp(1_700_000_000_000_000_000 + 2 * S)
    writer.write("/left_arm_controller/joint_trajectory", 2.0, command)
    picture = np.full((240, 320, 3), 120, np.uint8)
    for index in range(60):
        if index % 10 != 5:
            at_ns = round(index * S / 15)
            writer.write("/head/image_raw", index / 15 + 0.01, image_message(picture, at_ns, "head_optical_frame"))


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Recording:
    path = tmp_path_factory.mktemp("session") / "a.mcap"
    write_session(path, more=more)
    return Recording(path)


def test_figures_are_those_of_the_session(recording: Recording) -> None:
    figures = measure(recording, SPEC)
    assert figures.latency.value == pytest.approx([0.1] * 12, abs=1e-6)
    assert figures.interval.value == pytest.approx([0.4] * 10, abs=1e-6), "not across epochs"
    assert len(figures.splice.value) == 10
    assert min(figures.slack.value) == -0.3
    assert [(mode, reason) for _, mode, reason in figures.modes] == [("RUN", "armed"), ("FAULT", "tracking")]
    assert figures.mode_seconds()["RUN"] == pytest.approx(4.0, abs=0.05)
    assert figures.refused == {"stale": 2}
    assert figures.jerk_share.value == pytest.approx([0.5], rel=1e-3)
    assert figures.limit_share["right_gripper"] == 0.25
    assert figures.frames["head"] == 54
    assert figures.frames_missing["head"] == pytest.approx(6 / 60, abs=0.001)
    assert [text for _, text in figures.sentences] == [
        f"put the {colour} block on the pad" for colour in ("red", "blue", "green")
    ]
    assert summary(figures)["stall_share"] == pytest.approx(0.01)


def odd_commands(writer: Writer) -> None:
    """Trajectories as an executor of another maker may send them: a joint short, or accelerations only at times."""
    names = [joint.name for joint in SPEC.arms[0].joints]

    def send(joints: list[str], accelerations: list[list[float]]) -> None:
        points = [
            JointTrajectoryPoint(positions=[0.0] * len(joints), accelerations=row,
                                 time_from_start=Duration(sec=0, nanosec=20_000_000 * (1 + index)))
            for index, row in enumerate(accelerations)
        ]
        command = JointTrajectory(joint_names=joints, points=points)
        command.header.stamp = to_stamp(1_700_000_000_000_000_000 + 2 * S)
        writer.write("/left_arm_controller/joint_trajectory", 2.0, command)

    send(names[:6], [[0.0] * 6] * 3)
    send(names, [[0.0] * 7, [], [0.0] * 7])
    send(names, [[0.0] * 6] * 3)
    send([], [[], []])


def test_trajectories_that_say_nothing_of_jerk_are_passed_over(tmp_path: Path) -> None:
    write_session(tmp_path / "a.mcap", plans=1, more=odd_commands)
    figures = measure(Recording(tmp_path / "a.mcap"), SPEC)
    assert figures.jerk_share.value == []
    assert figures.jerk_joint == {}


def test_commands_that_begin_at_once_count_from_when_they_came(tmp_path: Path) -> None:
    def unstamped(writer: Writer) -> None:
        arm = SPEC.arms[0]
        points = [JointTrajectoryPoint(positions=[0.0] * 7, accelerations=[0.1 * i] * 7,
                                       time_from_start=Duration(sec=0, nanosec=20_000_000 * (1 + i))) for i in range(3)]
        writer.write("/left_arm_controller/joint_trajectory", 2.0,
                     JointTrajectory(joint_names=[joint.name for joint in arm.joints], points=points))

    write_session(tmp_path / "a.mcap", plans=1, more=unstamped)
    figures = measure(Recording(tmp_path / "a.mcap"), SPEC)
    assert 0 < figures.jerk_share.at_s[0] < 10


def test_set_points_of_a_forward_controller_say_nothing_of_jerk(tmp_path: Path) -> None:
    write_session(tmp_path / "a.mcap", plans=1, more=lambda writer: writer.write(
        f"/{SPEC.arms[0].command_topic}", 2.0, Float64MultiArray(data=[0.0] * 7)))
    forward = dataclasses.replace(SPEC, command_interface="position_forward")
    assert measure(Recording(tmp_path / "a.mcap"), forward).jerk_share.value == []


def test_the_worst_moments_are_apart_ordered_and_hold_the_fault() -> None:
    figures = Figures(seconds=20.0, modes=[(0.0, "RUN", ""), (9.0, "FAULT", "tracking")])
    figures.latency = Series([1.0, 5.0, 9.2], [0.1, 0.9, 2.0])
    figures.slack = Series([1.0, 12.0], [0.4, -0.1])
    moments = worst_moments(figures)
    assert [m.at_s for m in moments] == [9.0, 12.0]
    assert moments[0] == Moment(9.0, "FAULT: tracking", 10.0)


def test_lost_frames_are_counted_from_gaps_at_any_rate() -> None:
    stamps = [round(i * S / 30) for i in range(100) if i not in (10, 50, 51)]
    assert lost_share(stamps, 15.0) == pytest.approx(0.03)
    assert lost_share(stamps[:2], 15.0) == 0.0


class Seen(HTMLParser):
    """Tags that are open, and everything that a browser would fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.fetched: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "img", "link", "br"):
            self.open.append(tag)
        self.fetched += [value or "" for name, value in attrs if name in ("src", "href")]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.fetched += [value or "" for name, value in attrs if name in ("src", "href")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_well_formed_holds_pictures_and_fetches_nothing(recording: Recording) -> None:
    text = page(recording, SPEC, measure(recording, SPEC))
    seen = Seen()
    seen.feed(text)
    assert seen.open == []
    assert seen.fetched
    assert all(source.startswith("data:image/jpeg;base64,") for source in seen.fetched)
    assert "<script" not in text
    assert "http" not in re.sub(r'data:image/jpeg;base64,[^"]*', "", text).replace("http-equiv", "")
    for svg in re.findall(r"<svg.*?</svg>", text, re.DOTALL):
        ElementTree.fromstring(svg)
    for words in ("FAULT: tracking", "stale: 2", "put the blue block on the pad", "10.00%"):
        assert words in text


def test_an_empty_recording_has_a_page_too(tmp_path: Path) -> None:
    write_session(tmp_path / "a.mcap", plans=1)
    recording = Recording(tmp_path / "a.mcap")
    assert "nothing was recorded" in page(recording, SPEC, measure(recording, SPEC))


def test_plots_keep_extremes_and_have_round_ticks() -> None:
    at, value = np.arange(50_000.0), np.zeros(50_000)
    value[[7, 40_001]] = (5.0, -3.0)
    few_at, few = thinned(at, value)
    assert len(few) <= 900
    assert (few.max(), few.min()) == (5.0, -3.0)
    assert (np.diff(few_at) > 0).all()
    assert ticks(0.0, 1.0, 4) == [0.0, 0.5, 1.0]
    assert ticks(-0.13, 0.42, 5) == [0.0, 0.2, 0.4]
    assert ticks(3.0, 3.0, 4) == [3.0]
    for svg in (curves([Line("a", [0, 1], [2, 3])], (0.0, 1.0)), histogram([1.0, 1.0, 2.0], "s"),
                histogram([0.0], "ms"), timeline([Bar(0, 1, 0, "x", '<&"')], ["<row>"], (0.0, 2.0))):
        ElementTree.fromstring(svg)


def test_a_curve_is_broken_where_nothing_was_said_and_an_envelope_keeps_the_peaks() -> None:
    at = np.concatenate([np.arange(0, 5, 0.1), np.arange(9, 12, 0.1)])
    assert [len(part) for part, _ in stretches(at, at)] == [50, 30]
    assert len(stretches(np.arange(0, 50, 2.0), np.zeros(25))) == 1, "a slow series is no gap"
    at_s, peaks = largest([0.0, 0.1, 0.19, 0.7], [1.0, 4.0, 2.0, 3.0], 0.2)
    assert at_s == pytest.approx([0.1, 0.7])
    assert peaks == [4, 3]


def test_what_somebody_asked_for_is_no_worst_moment() -> None:
    modes = [(2.0, "RUN", "arm"), (5.0, "STOP", "stop"), (9.0, "FAULT", "tracking_error")]
    figures = Figures(seconds=20.0, modes=modes,
                      refusals=[(6.0, "not_running"), (8.0, "stale")], arrival_s=[3.0])
    assert [(m.at_s, m.why) for m in worst_moments(figures)] == [(8.0, "plan refused: stale"),
                                                                (9.0, "FAULT: tracking_error")]
    assert figures.begin_s == 1.5
