"""`starry view`: a live graph or a recording in the browser, by a Rerun server of this machine's own."""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.parse
import webbrowser
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from starry_ros.errors import ConfigError, RuntimeUnavailable
from starry_ros.paths import robot_file
from starry_ros.recording.reader import Recording
from starry_ros.robot_spec import RobotSpec, load_robot_spec

LOCAL = "127.0.0.1"
START_S = 30.0
MEMORY = "512MB"
INSTALL = "pip install 'starry_ros[view]', or pip install rerun-sdk"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `starry view`."""
    parser.add_argument("file", nargs="?", type=Path, metavar="FILE", help="recording; without it, the graph that runs")
    parser.add_argument("--robot", help="robot contract (default: the recording's, or bimanual_sim)")
    parser.add_argument("--namespace", default="", help="namespace of the graph (default: none)")
    parser.add_argument("--host", default=LOCAL, help=f"address to serve on; {LOCAL} is this machine alone (default)")
    parser.add_argument("--port", type=int, default=9090, help="port of the page (default: %(default)s)")
    parser.add_argument("--data-port", type=int, default=9876, help="port of the data (default: %(default)s)")
    parser.add_argument("--save", type=Path, metavar="FILE.rrd", help="do not serve: write a file for the Rerun viewer")
    parser.add_argument("--no-browser", action="store_true", help="only print the address")


def view_command(args: argparse.Namespace) -> int:
    """Show until Ctrl-C."""
    recording = Recording(args.file) if args.file else None
    if args.robot or recording is None:
        spec = load_robot_spec(robot_file(args.robot or "bimanual_sim"))
    else:
        spec = recording.spec()
    os.environ.setdefault("CI", "1")  # Rerun sends usage data home unless this is set
    try:
        import rerun as rr
    except ImportError as error:
        raise RuntimeUnavailable("view", "the viewer is not installed", fix=INSTALL) from error
    from starry_ros.recording.view_sink import APPLICATION, ViewSink, blueprint

    screen = blueprint(spec, live=recording is None)
    rr.init(APPLICATION, recording_id=args.file.stem if args.file else None)
    if args.save:
        rr.save(str(args.save), default_blueprint=screen)
        _feed(recording, spec, ViewSink(spec), args.namespace)
        rr.disconnect()
        print(f"written: {args.save}; open it with `rerun {args.save}`")
        return 0
    with serving(args.host, args.port, args.data_port) as address:
        rr.connect_grpc(f"rerun+http://{LOCAL}:{args.data_port}/proxy", default_blueprint=screen)
        print(f"view: {address}\nCtrl-C ends", flush=True)
        if not args.no_browser:
            webbrowser.open(address)
        _feed(recording, spec, ViewSink(spec), args.namespace)
        with contextlib.suppress(KeyboardInterrupt):
            while recording is not None:
                time.sleep(1.0)
    return 0


@contextlib.contextmanager
def serving(host: str, port: int, data_port: int) -> Iterator[str]:
    """A Rerun web server on this address; the address of its page."""
    program = server_program()
    for wanted in (port, data_port):
        if _answers(wanted):
            raise ConfigError(f"port {wanted}", "is in use", fix="choose another with --port and --data-port")
    process = subprocess.Popen(
        [*program, "--serve-web", "--bind", host, "--port", str(data_port), "--web-viewer-port", str(port),
         "--server-memory-limit", MEMORY, "--hide-welcome-screen"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )
    try:
        end_s = time.monotonic() + START_S
        while not (_answers(port) and _answers(data_port)):
            if process.poll() is not None or time.monotonic() > end_s:
                raise RuntimeUnavailable("view", "the viewer's server has not started", fix="try `rerun --serve-web`")
            time.sleep(0.1)
        shown = LOCAL if host in ("0.0.0.0", "::") else host
        data = urllib.parse.quote(f"rerun+http://{shown}:{data_port}/proxy", safe="")
        yield f"http://{shown}:{port}/?url={data}"
    finally:
        process.terminate()
        process.wait(10)


def server_program() -> list[str]:
    """Command that starts the viewer."""
    found = shutil.which("rerun", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))
    if found is None:
        raise RuntimeUnavailable("view", "the viewer is not installed", fix=INSTALL)
    return [found]


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(0.3)
        return probe.connect_ex((LOCAL, port)) == 0


def _feed(recording: Recording | None, spec: RobotSpec, sink: Any, namespace: str) -> None:
    if recording is None:
        from starry_ros.ros.live_view import run_live

        run_live(spec, sink, namespace)
        return
    wanted = [topic for topic in sink.topics if recording.has(topic)]
    for heard in recording.messages(*wanted):
        sink.take(heard.topic, heard.received_ns, heard.message)
    sink.flush()


