"""`python -m starry_ros.ros.start NODE ...`: starts a node; Ctrl-C is quiet even while its libraries are loading."""

from __future__ import annotations

import importlib
import sys

from starry_ros.ros.priority import yield_cores
from starry_ros.ros.transport import keep_apart


def main() -> None:
    """Import and run the node named by the first argument."""
    try:
        node = sys.argv.pop(1)
        yield_cores(node)
        keep_apart(node)
        importlib.import_module(f"starry_ros.ros.{node}_node").main()
    except KeyboardInterrupt:
        raise SystemExit(0) from None


if __name__ == "__main__":
    main()
