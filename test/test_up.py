"""`starry up`: children are started, heard, restarted or not, and always gone in the end. Real processes, no DDS."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from starry_ros.ros.graph import Graph, NodeSpec
from starry_ros.ros.up import Child, Supervisor, open_log

ROOT = Path(__file__).parents[1]
Lines = list[tuple[str, str]]


def script(folder: Path, name: str, body: str, *, respawn_s: float | None = None) -> NodeSpec:
    """A node that is a small Python program."""
    path = folder / name
    path.write_text(f"#!{sys.executable} -S\nimport os, signal, sys, time\n{body}\n")
    path.chmod(0o755)
    return NodeSpec(str(path), package="elsewhere", respawn_s=respawn_s)


def graph(*nodes: NodeSpec) -> Graph:
    return Graph(nodes, "", "info", {})


@contextlib.contextmanager
def running(lines: Lines, *nodes: NodeSpec) -> Iterator[Supervisor]:
    with Supervisor(graph(*nodes), lambda name, line: lines.append((Path(name).name, line))) as supervisor:
        yield supervisor


def poll_until(supervisor: Supervisor, done: Callable[[], bool], limit_s: float = 30.0) -> None:
    end_s = time.monotonic() + limit_s
    while not done():
        assert time.monotonic() < end_s, "nothing happened"
        supervisor.poll(0.05)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()


POLITE = "signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))\nprint('ready', flush=True)\ntime.sleep(60)"
STUBBORN = "signal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint('ready', flush=True)\ntime.sleep(60)"


def test_lines_of_the_children_carry_their_names(tmp_path: Path) -> None:
    lines: Lines = []
    body = "sys.stdout.write('one\\ntwo'); sys.stdout.flush(); sys.stderr.write('\\nthree'); sys.stderr.flush()"
    with running(lines, script(tmp_path, "talker", body)) as supervisor:
        poll_until(supervisor, lambda: ("talker", "three") in lines)
    assert [line for _, line in lines if line in ("one", "two", "three")] == ["one", "two", "three"]


def test_a_disk_that_is_full_ends_no_graph(tmp_path: Path) -> None:
    (tmp_path / "arm.log").symlink_to("/dev/full")
    with open_log(tmp_path, ["arm", "head"]) as log:
        log("arm", "nobody will read this")
        log("head", "but this")
    assert (tmp_path / "head.log").read_text() == "but this\n"


def test_a_polite_child_is_gone_after_the_block_and_was_not_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("starry_ros.ros.up._GRACE_S", ((signal.SIGTERM, 60.0),))
    lines: Lines = []
    with running(lines, script(tmp_path, "polite", POLITE)) as supervisor:
        poll_until(supervisor, lambda: ("polite", "ready") in lines)
        pid = next(iter(supervisor.children.values())).pid
    assert pid is not None
    assert not alive(pid)


def test_a_child_that_is_still_starting_ends_without_a_word(tmp_path: Path) -> None:
    lines: Lines = []
    with running(lines, script(tmp_path, "starting", "time.sleep(60)")):
        pass
    assert [line for _, line in lines if not line.startswith("started, process ")] == []


def test_a_child_that_does_not_listen_is_killed_with_its_own_children(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("starry_ros.ros.up._GRACE_S", ((signal.SIGTERM, 0.2), (signal.SIGKILL, 5.0)))
    body = "signal.signal(signal.SIGTERM, signal.SIG_IGN)\nos.fork()\nos.write(1, b'%d\\n' % os.getpid())\n" + STUBBORN
    lines: Lines = []
    with running(lines, script(tmp_path, "immortal", body)) as supervisor:
        poll_until(supervisor, lambda: sum(line.isdigit() for _, line in lines) == 2)
    pids = [int(line) for _, line in lines if line.isdigit()]
    end_s = time.monotonic() + 5.0
    while any(alive(pid) for pid in pids) and time.monotonic() < end_s:
        time.sleep(0.02)
    assert not any(alive(pid) for pid in pids)


def test_only_a_node_that_may_is_restarted(tmp_path: Path) -> None:
    lines: Lines = []
    body = "print('up', flush=True)\nsys.exit(3)"
    nodes = script(tmp_path, "camera", body, respawn_s=1.0), script(tmp_path, "arm", body)
    with running(lines, *nodes) as supervisor:
        poll_until(supervisor, lambda: lines.count(("camera", "up")) == 2)
        assert lines.count(("arm", "up")) == 1
    assert any(name == "camera" and "exit code 3), starts again in 1 s" in line for name, line in lines)
    assert any(name == "arm" and "is not restarted by itself. By hand: " in line for name, line in lines)


def test_a_killed_node_is_reported_with_the_signal(tmp_path: Path) -> None:
    lines: Lines = []
    nodes = script(tmp_path, "arm", POLITE), script(tmp_path, "other", POLITE)
    with running(lines, *nodes) as supervisor:
        poll_until(supervisor, lambda: lines.count(("arm", "ready")) == 1)
        child = supervisor.children[nodes[0].name]
        child.send(signal.SIGKILL)
        poll_until(supervisor, lambda: any("killed by SIGKILL" in line for _, line in lines))
        assert supervisor.exit_code is None


def test_a_node_that_was_started_wrongly_ends_the_graph_with_2(tmp_path: Path) -> None:
    lines: Lines = []
    nodes = script(tmp_path, "wrong", "sys.exit(2)", respawn_s=1.0), script(tmp_path, "polite", POLITE)
    with running(lines, *nodes) as supervisor:
        poll_until(supervisor, lambda: supervisor.exit_code == 2)


def test_a_graph_without_a_running_node_has_ended(tmp_path: Path) -> None:
    with running([], script(tmp_path, "short", "sys.exit(0)")) as supervisor:
        poll_until(supervisor, lambda: supervisor.exit_code == 1)


def test_waits_before_restarts_double_up_to_thirty_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr("starry_ros.ros.up.time.monotonic", lambda: now[0])
    child = Child(NodeSpec("x"), ["true"], {})
    child._started_s = now[0]
    assert [child.plan_restart(1.0) for _ in range(7)] == [1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]
    now[0] += 61.0
    assert child.plan_restart(1.0) == 1.0


@pytest.mark.parametrize("first_s", [16.5, 40.0])
def test_a_node_that_must_come_back_late_never_comes_back_sooner(
    first_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr("starry_ros.ros.up.time.monotonic", lambda: now[0])
    child = Child(NodeSpec("x"), ["true"], {})
    for lived_s in (0.0, 0.0, 0.0, 61.0):
        child._started_s, now[0] = now[0], now[0] + lived_s
        child.plan_restart(first_s)
        assert child.restart_at_s is not None
        assert child.restart_at_s - now[0] >= first_s


def test_the_kernel_ends_the_children_of_a_killed_supervisor(tmp_path: Path) -> None:
    node = script(tmp_path, "orphan", "print(os.getpid(), flush=True)\ntime.sleep(60)")
    program = f"""
import sys
from starry_ros.ros.graph import Graph, NodeSpec
from starry_ros.ros.up import Supervisor
graph = Graph((NodeSpec({node.name!r}, package="elsewhere"),), "", "info", {{}})
with Supervisor(graph, lambda name, line: print(line, flush=True)) as supervisor:
    while True:
        supervisor.poll()
"""
    parent = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pid = next(int(line) for line in parent.stdout if line.strip().isdigit())
    parent.kill()
    parent.wait()
    end_s = time.monotonic() + 5.0
    while alive(pid) and time.monotonic() < end_s:
        time.sleep(0.02)
    assert not alive(pid)


def test_ctrl_c_ends_starry_up_without_a_traceback(tmp_path: Path) -> None:
    program = f"""
import sys
from starry_ros import cli
from starry_ros.ros import up
from starry_ros.ros.graph import Graph, NodeSpec
nodes = (NodeSpec({script(tmp_path, "polite", POLITE).name!r}, package="starry_ros"),)
up.model_dir = lambda model: None
up.build_graph = lambda values: Graph(nodes, "", "info", {{}})
Graph.command = lambda self, node: [node.name]
sys.exit(cli.main(["up"]))
"""
    process = subprocess.Popen(
        [sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    for line in process.stdout:
        if "ready" in line:
            break
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert "all nodes have ended" in out
    assert err == ""
    assert process.returncode == 0
