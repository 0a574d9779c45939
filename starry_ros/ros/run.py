"""How every node starts and ends: no traceback on Ctrl-C or SIGTERM, one line for what the user can fix."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Callable, Iterator, Sequence

import rclpy
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node

from starry_ros.errors import StarryError

EXIT_OK, EXIT_USER_ERROR = 0, 2


@contextlib.contextmanager
def ros_session(args: Sequence[str] | None = None) -> Iterator[None]:
    """rclpy from init to shutdown; also where rclpy.init is no context manager itself."""
    rclpy.init(args=list(args) if args is not None else None)
    try:
        yield
    finally:
        rclpy.try_shutdown()


def run(make_node: Callable[[], Node], args: Sequence[str] | None = None) -> int:
    """Make a node and spin it until shutdown; call its `close()`, if any, before the context goes. Returns the exit code."""
    try:
        with ros_session(args):
            _spin(make_node())
    except (KeyboardInterrupt, ExternalShutdownException):
        return EXIT_OK
    except StarryError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return EXIT_USER_ERROR
    return EXIT_OK


def _spin(node: Node) -> None:
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    try:
        executor.spin()
    finally:
        _ignore_interrupts()
        close = getattr(node, "close", None)
        if close is not None:
            close()


def _ignore_interrupts() -> None:
    """A second Ctrl-C must not cut the tidying short."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
