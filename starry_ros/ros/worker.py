"""Heavy work beside a node's executor: one thread, fed by a buffer that holds only the newest item."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

Item = TypeVar("Item")


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


class Worker:
    """Calls `work()` in one thread again and again until closed. An exception ends it and is kept in `failure`."""

    def __init__(self, name: str, work: Callable[[], None], on_failure: Callable[[Exception], None]) -> None:
        self._stop = threading.Event()
        self._work, self._on_failure = work, on_failure
        self.failure: Exception | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    @property
    def stopping(self) -> bool:
        """Whether the thread was asked to end."""
        return self._stop.is_set()

    def close(self, timeout_s: float = 5.0) -> None:
        """Ask the thread to end and wait for it."""
        self._stop.set()
        if threading.current_thread() is not self._thread:
            self._thread.join(timeout_s)

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                self._work()
        except Exception as error:  # the thread's edge: reported, never swallowed
            if not self._stop.is_set():
                self.failure = error
                self._on_failure(error)
