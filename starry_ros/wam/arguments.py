"""Options of `starry export`, `model average` and `model inspect`; imports nothing heavy, so that `--help` is quick."""

from __future__ import annotations

import argparse
from pathlib import Path

from starry_ros.ranges import COUNT
from starry_ros.report import add_json_argument
from starry_ros.wam.choices import WEIGHT_BYTES
from starry_ros.wam.config import PRESETS
from starry_ros.wam.wan.config import WAN_PRESETS


def add_export_command_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `starry export`."""
    parser.add_argument("model", metavar="MODEL", help="a model folder, or a name in models/")
    parser.add_argument("--out", type=Path, metavar="DIR",
                        help="folder to write to (default: the model folder; the user's cache if that is read-only)")
    add_json_argument(parser)


def add_average_command_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `starry model average`."""
    parser.add_argument("models", metavar="MODEL", nargs="+", help="model folders, or names in models/")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="model folder to write")


def add_inspect_command_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `starry model inspect`."""
    parser.add_argument("folder", metavar="FOLDER", nargs="?",
                        help="a model folder, a name in models/, or a folder of public Wan or LingBot-VA weights")
    parser.add_argument("--preset", choices=[*PRESETS, *WAN_PRESETS], help="describe a preset instead of a folder")
    parser.add_argument("--robot", default="bimanual_sim", help="contract whose canvas a preset gets (%(default)s)")
    parser.add_argument("--history", type=COUNT, metavar="N", help="history slots instead of the model's own")
    parser.add_argument("--weights", choices=WEIGHT_BYTES, help="type of the weights (default: the model's own)")
    parser.add_argument("--cache", choices=WEIGHT_BYTES, help="type of the history (default: that of the weights)")
    parser.add_argument("--device", help="whose memory it must fit (default: cuda where there is one, else cpu)")
    add_json_argument(parser)
