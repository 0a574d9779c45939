"""`starry record`: records the graph that is running, or repairs a recording whose writer was killed."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

from starry_ros.ros.graph import dds_environment


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `starry record`."""
    parser.add_argument("--output", default="recordings", metavar="DIR", help="folder of the files (recordings)")
    parser.add_argument("--robot", default="bimanual_sim", help="robot contract of the graph (default: %(default)s)")
    parser.add_argument("--model", default="tiny", help="model that the graph runs (default: %(default)s)")
    parser.add_argument("--exclude", metavar="REGEX", help="topics to leave out; '' records what is painted, too")
    parser.add_argument("--ring", type=float, default=0.0, metavar="S",
                        help="keep only the last S seconds in memory, and write them when a fault comes")
    parser.add_argument("--after", type=float, default=3.0, metavar="S", help="seconds to write after a fault (3)")
    parser.add_argument("--recover", type=Path, nargs="+", metavar="FILE",
                        help="do not record: write FILE.recovered.mcap with everything readable in FILE")


def record_command(args: argparse.Namespace) -> int:
    """Record until Ctrl-C, or recover files."""
    if args.recover:
        return _recover(args.recover)
    from starry_ros.ros.recorder_node import RecorderNode
    from starry_ros.ros.run import run

    for name, value in dds_environment().items():
        os.environ.setdefault(name, value)
    values = {"output": args.output, "robot": args.robot, "model": args.model, "ring_s": args.ring,
              "after_s": args.after}
    if args.exclude is not None:
        values["exclude"] = args.exclude
    words = [word for name, value in values.items() for word in ("-p", f"{name}:={json.dumps(value)}")]
    return run(RecorderNode, ["--ros-args", *words])


def _recover(files: list[Path]) -> int:
    from starry_ros.recording.recover import recover

    for file in files:
        done = recover(file)
        state = "was whole" if done.whole else "had lost its end"
        print(f"{file} {state}: {done.messages} messages over {done.span_s:.1f} s in {done.path}")
    return 0
