"""`python -m starry_ros.ros.start NODE ...`: starts a node; Ctrl-C is quiet even while its libraries are loading."""

from __future__ import annotations

import importlib
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from starry_ros.ros.dead_ports import keep_off_dead_ports
from starry_ros.ros.priority import yield_cores
from starry_ros.ros.transport import keep_apart


def prepare(node: str) -> None:
    """What a process does for its node before DDS is loaded."""
    yield_cores(node)
    keep_apart(node)
    keep_off_dead_ports()


@contextmanager
def ending_at_once() -> Iterator[None]:
    """Ctrl-C ends the process on the spot: there is nothing to tidy up yet.

    KeyboardInterrupt would not do, for a compiled library that it strikes while loading makes an ImportError of it.
    """
    before = signal.signal(signal.SIGINT, lambda *_: os._exit(0))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def load(node: str) -> Any:
    """The module of a node."""
    with ending_at_once():
        prepare(node)
        return importlib.import_module(f"starry_ros.ros.{node}_node")


def main() -> None:
    """Import and run the node named by the first argument."""
    node = sys.argv.pop(1)
    try:
        load(node).main()
    except KeyboardInterrupt:
        raise SystemExit(0) from None
    except ModuleNotFoundError as error:  # restarting would not help
        from starry_ros.ros.graph import EXIT_USER_ERROR

        if (error.name or "").split(".")[0] == "starry_ros":
            raise
        print(f"error: {node}: {error.name} is not installed. Fix: pip install {error.name}", file=sys.stderr)
        raise SystemExit(EXIT_USER_ERROR) from None


if __name__ == "__main__":
    main()
