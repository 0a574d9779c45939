"""The browser view: every kind of message is shown, a broken one is said, and nothing leaves the machine."""

from __future__ import annotations

import argparse
import threading
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.error import HTTPError

import numpy as np
import pytest
from recording_kit import SPEC, write_session
from test_recording_figures import more

from starry_ros.recording.reader import Recording, picture_topics
from starry_ros.types import ActionChunk

pytest.importorskip("rerun", reason="the viewer is not installed: pip install rerun-sdk")

from starry_ros.recording import page_server, view_layout, view_sink
from starry_ros.recording.view_plans import DROPPED_RGB, LATE_RGB, USED_RGB, PlanBars
from starry_ros.ros import view


@pytest.fixture
def logged(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[Any]]:
    """What is logged, by entity path."""
    found: dict[str, list[Any]] = {}
    monkeypatch.setattr(view_sink.rr, "log", lambda path, value, **_: found.setdefault(path, []).append(value))
    monkeypatch.setattr(view_sink.rr, "set_time", lambda *_, **__: None)
    monkeypatch.setattr(view_sink.rr, "send_columns", lambda path, indexes, columns: found.setdefault(path, []).extend(
        columns.get("Scalars:scalars", columns) if isinstance(columns, dict) else list(columns)))
    return found


def test_every_message_of_a_recording_is_shown(tmp_path: Path, logged: dict[str, list[Any]]) -> None:
    write_session(tmp_path / "a.mcap", more=more)
    recording, sink = Recording(tmp_path / "a.mcap"), view_sink.ViewSink(SPEC)
    topics = (*sink.topics, *picture_topics(SPEC, recording.has))
    for heard in recording.messages(*(topic for topic in topics if recording.has(topic))):
        sink.take(heard.topic, heard.received_ns, heard.message)
    sink.flush()
    wanted = {"cameras/head", "canvas", "chunks/bars", "world/workspace", "world/plan/left", "world/plan/right", "log",
              "joints/right/right_waist/measured", "joints/right/right_waist/upper", "range/left/left_waist/measured",
              "joints/left/left_waist/commanded", "states/mode", "world/arms/left", "plots/latency/plan_age_ms",
              "plots/latency/slack_ms", "plots/splice/change_of_plan", "plots/limits/refused"}
    assert wanted <= set(logged)
    assert len(logged["cameras/head"]) == 54
    texts = [str(entry.text.as_arrow_array()[0]) for entry in logged["log"]]
    assert "mode: FAULT (tracking)" in texts
    assert "sentence: put the blue block on the pad" in texts


def test_an_executor_that_has_gone_silent_is_not_shown_as_running(
    tmp_path: Path, logged: dict[str, list[Any]]
) -> None:
    write_session(tmp_path / "a.mcap", more=more)
    recording, sink, head = Recording(tmp_path / "a.mcap"), view_sink.ViewSink(SPEC), SPEC.cameras[0].topic
    status, picture = (next(iter(recording.messages(topic))).message for topic in ("executor_status", head))
    for topic, time_s, message in (("executor_status", 10.0, status), (head, 12.0, picture), (head, 13.0, picture),
                                   (head, 13.1, picture), ("executor_status", 14.0, status)):
        sink.take(topic, round(1e9 * time_s), message)
    texts = [str(entry.text.as_arrow_array()[0]) for entry in logged["log"]]
    assert [text.partition(" (")[0] for text in texts if text.startswith("mode")] == [
        f"mode: {status.mode_name}", "mode: NO EXECUTOR", f"mode: {status.mode_name}"]


def test_set_points_of_a_forward_controller_are_shown_as_commanded(logged: dict[str, list[Any]]) -> None:
    forward = replace(SPEC, command_interface="position_forward")
    sink = view_sink.ViewSink(forward)
    for values in ([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.03], [0.1]):
        sink.take(SPEC.arms[0].command_topic, 0, SimpleNamespace(data=values))
    sink.flush()
    assert len(logged["joints/left/left_waist/commanded"]) == 1
    assert "is not a set-point a joint; got 1; expected 7" in str(logged["log"][0].text.as_arrow_array()[0])


def test_a_camera_is_shown_as_it_was_sent_and_once() -> None:
    head, *others = SPEC.cameras
    sent = {head.topic, f"{head.topic}/compressed", f"{others[0].topic}/compressed"}
    found = picture_topics(SPEC, sent.__contains__)
    assert {topic: camera.name for topic, camera in found.items()} == {
        head.topic: head.name, f"{others[0].topic}/compressed": others[0].name, others[1].topic: others[1].name}


def test_a_message_that_cannot_be_read_is_said_in_the_log(logged: dict[str, list[Any]]) -> None:
    sink = view_sink.ViewSink(SPEC)
    broken = SimpleNamespace(header=SimpleNamespace(stamp=SimpleNamespace(sec=0, nanosec=0)), encoding="mystery",
                             height=2, width=2, step=6, data=bytes(12))
    sink.take("head/image_raw", 0, broken)
    assert "mystery" in str(logged["log"][0].text.as_arrow_array()[0])


def test_the_bars_of_plans_say_what_was_late_followed_and_replaced() -> None:
    bars = PlanBars()
    for index, came_ns in enumerate((3, 5, 14)):
        positions = np.zeros((16, len(SPEC.joint_names)))
        bars.add(ActionChunk(index, 1, 1, 0, 4 * index, 1, SPEC.joint_names, positions, "x"), came_ns)
    assert bars.newest is not None
    assert bars.newest.chunk_id == 2
    spans = {row: [(begin, end, rgb) for begin, end, _, rgb in bars._bars_of(row)] for row in range(3)}
    assert spans[0] == [(0, 3, LATE_RGB), (3, 5, USED_RGB), (5, 15, DROPPED_RGB)]
    assert spans[1] == [(4, 5, LATE_RGB), (5, 14, USED_RGB), (14, 19, DROPPED_RGB)]
    assert spans[2] == [(8, 14, LATE_RGB), (14, 23, USED_RGB)]


def test_an_arm_is_drawn_from_its_base_to_its_hand() -> None:
    sink = view_sink.ViewSink(SPEC)
    sink._robot.place(SPEC.limit("home"))
    for arm in SPEC.arms:
        chain = sink._links(arm.name)
        assert len(chain) >= 6
        assert np.allclose(chain[-1], sink._robot.hand(arm.name))
        assert np.linalg.norm(np.diff(chain, axis=0), axis=1).max() < 0.5


def test_there_is_a_layout_for_live_and_for_recorded_sessions() -> None:
    assert all(view_layout.blueprint(SPEC, live=live) is not None for live in (True, False))
    picture = np.zeros((4, 6, 3), np.uint8)
    assert view_sink._jpeg(picture).media_type is not None


@pytest.mark.parametrize(("host", "shown"), [(None, "127.0.0.1"), ("0.0.0.0", "127.0.0.1"), ("10.0.0.7", "10.0.0.7")])
def test_it_serves_this_machine_alone_unless_told_otherwise(
    host: str | None, shown: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[list[str]] = []
    process = SimpleNamespace(poll=lambda: None, terminate=lambda: None, wait=lambda _: 0)

    def start(command: list[str], **_: object) -> SimpleNamespace:
        started.append(command)
        return process

    monkeypatch.setattr(view.subprocess, "Popen", start)
    asked: list[tuple[str, int]] = []
    monkeypatch.setattr(view, "_answers", lambda *where: asked.append(where) or bool(started))
    passed_on: list[tuple[Any, ...]] = []
    monkeypatch.setattr(view, "passing_on", lambda *args: passed_on.append(args) or nullcontext())
    parser = argparse.ArgumentParser()
    view.add_arguments(parser)
    args = parser.parse_args(["--host", host] if host else [])
    with view.serving(args.host, args.port, args.data_port) as address:
        assert address.startswith(f"http://{shown}:9090/?url=rerun%2Bhttp%3A%2F%2F{shown}%3A9876%2Fproxy")
    command = started[0]
    assert command[command.index("--bind") + 1] == (host or "127.0.0.1")
    page_port = int(command[command.index("--web-viewer-port") + 1])
    assert passed_on == [(host or "127.0.0.1", 9090, shown, page_port, 9876)]
    assert {where for where, _ in asked} == {shown}, "what listens on one address answers there alone"


def test_the_page_is_passed_on_under_a_policy_that_lets_it_talk_to_nobody_else(tmp_path: Path) -> None:
    (tmp_path / "re_viewer.wasm").write_bytes(bytes(range(256)) * 500)
    behind = ThreadingHTTPServer(("127.0.0.1", 0), partial(QuietFiles, directory=str(tmp_path)))
    threading.Thread(target=behind.serve_forever, daemon=True).start()
    port = view._free_port()
    with page_server.passing_on("127.0.0.1", port, "127.0.0.1", behind.server_port, 9876):
        with page_server.NO_PROXY.open(f"http://127.0.0.1:{port}/re_viewer.wasm?x=1") as found:
            assert found.read() == bytes(range(256)) * 500
            assert found.headers["Content-Type"] == "application/wasm"
            allowed = dict(part.strip().split(" ", 1) for part in found.headers["Content-Security-Policy"].split(";"))
        with pytest.raises(HTTPError, match="404"):
            page_server.NO_PROXY.open(f"http://127.0.0.1:{port}/nothing")
    behind.shutdown()
    behind.server_close()
    assert set(allowed) == {"default-src", "connect-src"}
    assert {s for source in allowed.values() for s in source.split() if "//" in s} == {"http://127.0.0.1:9876"}


@pytest.mark.parametrize(("header", "host"), [
    ("robot.local:9090", "robot.local"), ("127.0.0.1:9090", "127.0.0.1"), ("[fe80::1]:9090", "[fe80::1]"),
    (None, "127.0.0.1"), ("*:9090", "127.0.0.1"), ("a; connect-src *", "127.0.0.1"),
])
def test_data_may_come_from_the_host_that_the_browser_asked_alone(header: str | None, host: str) -> None:
    assert page_server.asked_host(header) == host


class QuietFiles(SimpleHTTPRequestHandler):
    """Serves a folder."""

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


def test_a_port_in_use_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(view, "_answers", lambda _, port: port == 9876)
    with pytest.raises(view.ConfigError, match="port 9876: is in use"), view.serving("127.0.0.1", 9090, 9876):
        pass


def test_a_screenshot_says_what_went_wrong_and_nobody_waits_for_one_after_ctrl_c(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise OSError("no browser")

    monkeypatch.setattr(view, "screenshot", fail)
    shot = view._Shot("http://127.0.0.1", argparse.Namespace(screenshot=tmp_path / "a.png", wait=0.0, size=(8, 8)))
    with pytest.raises(KeyboardInterrupt):
        shot.result()
    shot._run(0.0)
    with pytest.raises(OSError, match="no browser"):
        shot.result()


def test_a_running_graph_is_shown_until_the_end_that_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    live_view = pytest.importorskip("starry_ros.ros.live_view", reason="ROS 2 is not installed")
    clock_s = [100.0]
    monkeypatch.setattr(view.time, "monotonic", lambda: clock_s[0])
    monkeypatch.setattr(view.time, "sleep", lambda span_s: clock_s.__setitem__(0, clock_s[0] + span_s))
    seen: list[float] = []

    def run_live(_spec: Any, _sink: Any, _namespace: str, ended: Any) -> None:
        while not ended():
            seen.append(clock_s[0])
            clock_s[0] += 1.0

    monkeypatch.setattr(live_view, "run_live", run_live)
    flushed: list[bool] = []
    sink = SimpleNamespace(flush=lambda: flushed.append(True))
    view._feed(argparse.Namespace(begin=3.0, end=6.0, namespace=""), None, SPEC, sink, lambda: False)
    assert seen == [103.0, 104.0, 105.0, 106.0]
    assert flushed
