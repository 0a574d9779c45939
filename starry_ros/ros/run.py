"""How every node starts and ends: no traceback on Ctrl-C or SIGTERM, one line for what the user can fix."""

from __future__ import annotations

import contextlib
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence

import rclpy
from rclpy.executors import Executor, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions

from starry_ros.errors import StarryError
from starry_ros.ros.parent import follow_launch

EXIT_OK, EXIT_BUG, EXIT_USER_ERROR = 0, 1, 2


class StarryNode(Node):
    """A node that can end itself from any thread, and tidies up in `close()`."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.fatal: Exception | None = None

    def fail(self, error: Exception) -> None:
        """End the process with this error: exit code 2 for what the user can fix, else 1. Thread-safe."""
        self.fatal = error
        if self.executor is not None:
            self.executor.wake()

    def begin(self) -> None:
        """Called once, in the thread that spins and before it does."""

    def close(self) -> None:
        """Called once, before the ROS context goes. Nodes with threads or files override it."""


@contextlib.contextmanager
def ros_session(args: Sequence[str] | None = None, *, signals: bool = True) -> Iterator[None]:
    """rclpy from init to shutdown.

    With `signals`, SIGINT and SIGTERM take the context away, and what calls then raise arrives as KeyboardInterrupt.
    Without, signals stay the caller's, and no call fails because of one.
    """
    options = SignalHandlerOptions.ALL if signals else SignalHandlerOptions.NO
    rclpy.init(args=list(args) if args is not None else None, signal_handler_options=options)
    try:
        yield
    except Exception as error:
        if rclpy.ok() or isinstance(error, StarryError):
            raise
        raise KeyboardInterrupt from None
    finally:
        _shut_down()


def _shut_down() -> None:
    try:
        rclpy.try_shutdown()
    except RuntimeError:  # the signal's own thread was faster by a hair
        if rclpy.ok():
            raise


def run(
    make_node: Callable[[], StarryNode],
    args: Sequence[str] | None = None,
    make_executor: Callable[[], Executor] = SingleThreadedExecutor,
) -> int:
    """Make a node and spin it until shutdown or failure, or until its launch has ended. Returns the exit code."""
    try:
        with ros_session(args):
            follow_launch()
            return _spin(make_node(), make_executor())
    except KeyboardInterrupt:
        return EXIT_OK
    except StarryError as error:
        return _report(error)


def _spin(node: StarryNode, executor: Executor) -> int:
    executor.add_node(node)
    try:
        node.begin()
        while node.fatal is None and rclpy.ok():
            executor.spin_once(timeout_sec=1.0)
    finally:
        _ignore_interrupts()
        node.close()
    return EXIT_OK if node.fatal is None else _report(node.fatal)


def _report(error: Exception) -> int:
    """One line for what the user can fix, a traceback for a bug."""
    if isinstance(error, StarryError):
        print(f"error: {error}", file=sys.stderr, flush=True)
        return EXIT_USER_ERROR
    traceback.print_exception(error)
    return EXIT_BUG


def _ignore_interrupts() -> None:
    """A second Ctrl-C must not cut the tidying short."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
