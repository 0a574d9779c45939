"""`starry view`: a live graph or a recording in the browser, by a Rerun server of this machine's own."""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import math
import os
import shutil
import socket
import subprocess
import threading
import time
import urllib.parse
import webbrowser
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Any

from starry_ros.errors import ConfigError, RuntimeUnavailable
from starry_ros.paths import robot_file
from starry_ros.ranges import NOT_NEGATIVE, PORT, POSITIVE
from starry_ros.recording.page_server import LOCAL, passing_on
from starry_ros.recording.reader import Recording, picture_topics
from starry_ros.recording.screenshot import screenshot
from starry_ros.robot_spec import RobotSpec, load_robot_spec
from starry_ros.ros.parent import end_with_parent
from starry_ros.timing import nanoseconds

START_S = 30.0
MEMORY = "512MB"
INSTALL = "pip install rerun-sdk"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `starry view`."""
    parser.add_argument("file", nargs="?", type=Path, metavar="FILE", help="recording; without it, the graph that runs")
    parser.add_argument("--robot", help="robot contract (default: the recording's, or bimanual_sim)")
    parser.add_argument("--namespace", default="", help="namespace of the graph (default: none)")
    parser.add_argument("--host", default=LOCAL, help=f"address to serve on; {LOCAL} is this machine alone (default)")
    parser.add_argument("--port", type=PORT, default=9090, help="port of the page (default: %(default)s)")
    parser.add_argument("--data-port", type=PORT, default=9876, help="port of the data (default: %(default)s)")
    parser.add_argument("--save", type=Path, metavar="FILE.rrd", help="do not serve: write a file for the Rerun viewer")
    parser.add_argument("--no-browser", action="store_true", help="only print the address")
    parser.add_argument("--begin", type=NOT_NEGATIVE, default=0.0, metavar="S",
                        help="leave out what FILE has before (0), or what the graph sends before, from now on")
    parser.add_argument("--end", type=NOT_NEGATIVE, metavar="S",
                        help="leave out what FILE has, or the graph sends, after it, and show this moment")
    parser.add_argument("--screenshot", type=Path, metavar="FILE.png",
                        help="show it to a browser without a screen, and end with its picture; needs Playwright")
    parser.add_argument("--wait", type=POSITIVE, default=30.0, metavar="S", help="time before the screenshot (30)")
    parser.add_argument("--size", type=_size, default=(1600, 1000), metavar="WxH", help="of the screenshot (1600x1000)")


def view_command(args: argparse.Namespace) -> int:
    """Show until Ctrl-C, or until the screenshot is there."""
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
    from starry_ros.recording.view_layout import blueprint
    from starry_ros.recording.view_sink import APPLICATION, ViewSink

    screen = blueprint(spec, live=recording is None, follow=args.end is not None or args.screenshot is not None)
    rr.init(APPLICATION, recording_id=args.file.stem if args.file else None)
    if args.save:
        rr.save(str(args.save), default_blueprint=screen)
        _feed(args, recording, spec, ViewSink(spec), _never)
        rr.disconnect()
        print(f"written: {args.save}; open it with `rerun {args.save}`")
        return 0
    last = recording is None or args.end is not None
    with serving(args.host, args.port, args.data_port, newest_first=last) as address:
        rr.connect_grpc(f"rerun+http://{_near(args.host)}:{args.data_port}/proxy", default_blueprint=screen)
        shot = _Shot(address, args) if args.screenshot else None
        if shot is None:
            print(f"view: {address}\nCtrl-C ends", flush=True)
        if shot is None and not args.no_browser:
            webbrowser.open(address)
        ended = shot.ended if shot else _never
        with contextlib.suppress(KeyboardInterrupt):
            beside = recording is None and args.end is None
            if shot is not None and beside:
                shot.start(args.begin)
            _feed(args, recording, spec, ViewSink(spec), ended)
            if shot is not None and not beside:
                shot.start(0.0)
            while not beside and not ended():
                time.sleep(0.2)
        rr.disconnect()
        if shot is not None:
            shot.result()
            print(f"written: {args.screenshot} ({args.screenshot.stat().st_size / 1024:.0f} KiB)")
    return 0


class _Shot:
    """A screenshot that is taken beside the feeding of a live view, or after that of a recording or until `--end`."""

    def __init__(self, address: str, args: argparse.Namespace) -> None:
        self._future = Future[None]()
        self._take = partial(screenshot, address, args.screenshot, args.wait, args.size)

    def start(self, after_s: float) -> None:
        """Open the browser so much later, in a thread that nobody waits for after Ctrl-C."""
        threading.Thread(target=self._run, args=(after_s,), name="screenshot", daemon=True).start()

    def _run(self, after_s: float) -> None:
        time.sleep(after_s)
        try:
            self._future.set_result(self._take())
        except BaseException as error:
            self._future.set_exception(error)

    def ended(self) -> bool:
        """Whether there is a picture, or an error."""
        return self._future.done()

    def result(self) -> None:
        """Raises what went wrong: KeyboardInterrupt when it has not ended, for nothing else ends the waiting."""
        if not self.ended():
            raise KeyboardInterrupt
        self._future.result()


def _never() -> bool:
    return False


def _size(text: str) -> tuple[int, int]:
    width, _, height = text.partition("x")
    return int(width), int(height)


@contextlib.contextmanager
def serving(host: str, port: int, data_port: int, *, newest_first: bool = False) -> Iterator[str]:
    """A Rerun web server on this address; the address of its page. A page opened late shows now, or the beginning."""
    program, page_port, near = server_program(), _free_port(), _near(host)
    for wanted in (port, data_port):
        if _answers(near, wanted):
            raise ConfigError(f"port {wanted}", "is in use", fix="choose another with --port and --data-port")
    process = subprocess.Popen(
        [*program, "--serve-web", "--bind", host, "--port", str(data_port), "--web-viewer-port", str(page_port),
         "--server-memory-limit", MEMORY, "--hide-welcome-screen", *(["--newest-first"] if newest_first else [])],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True, preexec_fn=end_with_parent(),
    )
    try:
        end_s = time.monotonic() + START_S
        while not (_answers(near, page_port) and _answers(near, data_port)):
            if process.poll() is not None or time.monotonic() > end_s:
                raise RuntimeUnavailable("view", "the viewer's server has not started", fix="try `rerun --serve-web`")
            time.sleep(0.1)
        data = urllib.parse.quote(f"rerun+http://{near}:{data_port}/proxy", safe="")
        with passing_on(host, port, near, page_port, data_port):
            yield f"http://{near}:{port}/?url={data}&hide_welcome_screen=1"
    finally:
        process.terminate()
        process.wait(10)


def server_program() -> list[str]:
    """Command that starts the viewer: the program itself, not the script that wraps it and would leave it behind."""
    wheel = importlib.util.find_spec("rerun_cli")
    inside = Path(wheel.origin).with_name("rerun") if wheel is not None and wheel.origin else None
    found = str(inside) if inside is not None and inside.is_file() else shutil.which("rerun")
    if found is None:
        raise RuntimeUnavailable("view", "the viewer is not installed", fix=INSTALL)
    return [found]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((LOCAL, 0))
        return int(probe.getsockname()[1])


def _near(host: str) -> str:
    """Where what is served on `host` is found from this machine."""
    return LOCAL if host in ("0.0.0.0", "::") else host


def _answers(host: str, port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(0.3)
        return probe.connect_ex((host, port)) == 0


def _feed(
    args: argparse.Namespace, recording: Recording | None, spec: RobotSpec, sink: Any, ended: Callable[[], bool]
) -> None:
    if recording is None:
        from starry_ros.ros.live_view import run_live

        start_s = time.monotonic()
        time.sleep(args.begin)
        over_s = math.inf if args.end is None else start_s + args.end
        run_live(spec, sink, args.namespace, lambda: ended() or time.monotonic() > over_s)
        sink.flush()
        return
    wanted = [topic for topic in (*sink.topics, *picture_topics(spec, recording.has)) if recording.has(topic)]
    begin_ns, end_ns = (
        None if s is None else recording.start_ns + nanoseconds(s) for s in (args.begin or None, args.end)
    )
    for heard in recording.messages(*wanted, start_ns=begin_ns, end_ns=end_ns):
        sink.take(heard.topic, heard.received_ns, heard.message)
    sink.flush()
