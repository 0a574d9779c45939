"""Options of the verbs of `starry data`, but `generate`; imports nothing heavy, so that `--help` is quick."""

from __future__ import annotations

import argparse
from pathlib import Path

from starry_ros.ranges import NOT_NEGATIVE, POSITIVE, WHOLE
from starry_ros.report import add_json_argument
from starry_ros.sim.choices import TASKS


def add_import_command_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `starry data import`."""
    parser.add_argument("sources", metavar="SOURCE", nargs="+", type=Path,
                        help="the root folder of a LeRobot data set, MCAP files, or a folder of MCAP files")
    parser.add_argument("--out", type=Path, required=True, help="folder to write; a broken import into it is continued")
    _add_robot(parser)
    parser.add_argument("--instruction", default="", metavar="TEXT", help="sentence of recordings that name none")
    parser.add_argument("--task", choices=TASKS, help="the simulator's task that is shown, if any; training plays it")
    parser.add_argument("--camera", action="append", default=[], metavar="NAME=FEATURE",
                        help="LeRobot feature of a camera of the contract; may be given several times")
    parser.add_argument("--by-position", action="store_true",
                        help="the joints have the contract's order, whatever their names")
    parser.add_argument("--degrees", action="store_true", help="the joints are in degrees")
    parser.add_argument("--gripper-range", nargs=2, type=float, metavar=("CLOSED", "OPEN"),
                        help="what the data say where the contract's gripper is at its lower and upper limit")
    _add_skip(parser)


def add_export_command_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `starry data export`."""
    parser.add_argument("folder", metavar="DIR", type=Path, help="a data folder")
    parser.add_argument("out", metavar="OUT", type=Path, help="folder to write; a broken export into it is continued")
    parser.add_argument("--format", choices=("lerobot", "mcap"), default="lerobot", help="default: %(default)s")
    _add_robot(parser)
    _add_skip(parser)


def add_merge_command_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `starry data merge`."""
    parser.add_argument("folders", type=Path, nargs="+", help="data folders, in order")
    parser.add_argument("--out", type=Path, required=True, help="folder to write; a merge that was cut off goes on")
    _add_robot(parser)


def add_show_command_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `starry data show`."""
    parser.add_argument("folder", metavar="DIR", type=Path, help="a data folder")
    parser.add_argument("--episode", type=WHOLE, default=None, metavar="N", help="one episode, by its place")
    parser.add_argument("--png", type=Path, metavar="FILE", help="write its frames and labelled contacts as a picture")
    _add_robot(parser)
    add_json_argument(parser)


def add_check_command_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `starry data check`."""
    parser.add_argument("folder", metavar="DIR", type=Path, help="a data folder")
    add_json_argument(parser)


def add_trim_command_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `starry data trim`."""
    _add_change(parser)
    parser.add_argument("--keep", type=NOT_NEGATIVE, default=0.3, metavar="S",
                        help="rest to keep at each end (default: %(default)s s)")
    parser.add_argument("--start", type=NOT_NEGATIVE, default=0.0, metavar="S", help="cut everything before")
    parser.add_argument("--end", type=NOT_NEGATIVE, default=None, metavar="S", help="cut everything after")


def add_resample_command_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `starry data resample`."""
    _add_change(parser)
    parser.add_argument("--speed", type=POSITIVE, default=1.0, help="how many times as fast (default: %(default)s)")


def add_annotate_command_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `starry data annotate`."""
    _add_change(parser)
    parser.add_argument("--from-joints", action="store_true",
                        help="contacts and stages from gripper events and forward kinematics, in place of those stored")


def _add_robot(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--robot", default="bimanual_sim", help="robot: a name in config/robots/ or a file")


def _add_skip(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--skip-bad", action="store_true", help="name bad files and episodes and go on without them")


def _add_change(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", metavar="DIR", type=Path, help="a data folder")
    parser.add_argument("--out", type=Path, required=True, help="folder to write; a broken run in it is continued")
    _add_robot(parser)
    _add_skip(parser)
