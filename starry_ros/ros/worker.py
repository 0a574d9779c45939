"""Heavy work beside a node's executor: one thread, fed by a buffer that holds only the newest item, and by calls."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import rclpy
from rclpy.node import Node
from rclpy.task import Future

Item = TypeVar("Item")
Result = TypeVar("Result")


class Slot(Generic[Item]):
    """Buffer of one: a new item replaces an unread one. Thread-safe."""

    def __init__(self) -> None:
        self._ready = threading.Condition()
        self._item: Item | None = None
        self.replaced = 0

    def put(self, item: Item) -> None:
        """Offer an item; counts the unread one it replaces."""
        with self._ready:
            self.replaced += self._item is not None
            self._item = item
            self._ready.notify()

    def take(self, timeout_s: float) -> Item | None:
        """Wait for an item and remove it; None when none came in time."""
        with self._ready:
            self._ready.wait_for(lambda: self._item is not None, timeout_s)
            item, self._item = self._item, None
            return item


class Calls:
    """Calls that a service hands to the worker thread and awaits, so that the node's executor never blocks."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._pending: queue.SimpleQueue[tuple[Callable[[], Any], Future]] = queue.SimpleQueue()

    async def run(self, call: Callable[[], Result]) -> Result:
        """Await `call()` as the worker runs it; raises what it raises."""
        future = Future(executor=self._node.executor)
        self._pending.put((call, future))
        result: Result = await future
        return result

    def serve(self) -> None:
        """Run what is pending. Called by the worker thread."""
        while not self._pending.empty():
            call, future = self._pending.get()
            try:
                future.set_result(call())
            except Exception as error:  # raised again where it is awaited
                future.set_exception(error)
            if self._node.executor is not None:
                self._node.executor.wake()


class Worker:
    """Calls `work()` in one thread again and again until closed, then `finish()` in the same thread.

    An exception ends it and goes to `on_failure`.
    """

    def __init__(
        self, name: str, work: Callable[[], None], on_failure: Callable[[Exception], None],
        finish: Callable[[], None] = lambda: None,
    ) -> None:
        self._stop = threading.Event()
        self._work, self._on_failure, self._finish = work, on_failure, finish
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Begin; call it when everything `work` uses exists."""
        self._thread.start()

    def close(self, timeout_s: float = 5.0) -> None:
        """Ask the thread to end and wait for it."""
        self._stop.set()
        if self._thread.is_alive() and threading.current_thread() is not self._thread:
            self._thread.join(timeout_s)

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                self._work()
        except Exception as error:  # the thread's edge: reported, never swallowed, unless ROS is gone already
            if rclpy.ok() and not self._stop.is_set():
                self._on_failure(error)
        finally:
            self._finish()
