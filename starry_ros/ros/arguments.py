"""Options of verbs that need ROS 2; imports nothing of it, so that `--help` is quick and always there."""

from __future__ import annotations

import argparse
from pathlib import Path

from starry_ros.ranges import COUNT, NOT_NEGATIVE, POSITIVE, WHOLE
from starry_ros.report import add_json_argument
from starry_ros.sim.choices import SETTINGS, TASKS
from starry_ros.wam.choices import RUNTIMES

SCENARIOS = {
    "camera_frozen": "one camera repeats its last picture, stamp and all",
    "camera_repeats": "one camera repeats its last picture under new stamps",
    "camera_dropped": "one camera is silent",
    "camera_reordered": "pictures of one camera arrive in wrong order",
    "camera_skewed": "one camera's stamps are 0.5 s old",
    "camera_corrupt": "pictures of one camera are cut in half",
    "camera_wrong_size": "one camera changes its size",
    "joints_stale": "joint states stop",
    "joints_nan": "joint states are not numbers",
    "joints_jump": "joint states jump by 1 rad",
    "chunks_late": "long plans of 5 s ago arrive",
    "chunks_duplicate": "every plan arrives again and again",
    "chunks_reordered": "every plan is overtaken by the next one",
    "chunks_old_epoch": "plans of an old session arrive",
    "chunks_foreign": "plans for another robot arrive",
    "chunks_nan": "plans that are not numbers arrive",
    "planner_slow": "the planner is up to five times slower, by a random factor",
    "planner_hung": "the planner hangs",
    "planner_killed": "the planner is killed",
    "packer_killed": "the packer is killed",
    "executor_killed": "the executor is killed",
    "executor_frozen": "the executor stands still for 2 s",
    "visualiser_killed": "the overlay node is killed",
    "recorder_killed": "the recorder is killed",
    "sim_robot_killed": "the robot is killed",
    "sim_cameras_killed": "the process of the robot's cameras is killed",
    "driver_rejects": "the driver rejects every command",
    "driver_stutters": "the driver rejects commands now and then",
    "clock_jump": "the nodes' clock jumps 5 s ahead of the robot's",
    "clock_jump_back": "the nodes' clock jumps 5 s back",
    "dds_flood": "strangers flood the topics",
    "disk_full": "the disk is full while recording",
    "estop": "the emergency stop is pressed and released",
}
"""What `starry chaos` can do to a running graph; `chaos_faults` does it."""


def _picture(text: str) -> Path:
    if Path(text).suffix not in (".png", ".jpg"):
        raise argparse.ArgumentTypeError(f"{text} is neither a .png nor a .jpg")
    return Path(text)


def add_demo_command_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `starry demo`."""
    parser.add_argument("--task", default="place_block_pad", choices=("all", *TASKS),
                        help="what to do; all: one task after the other (default: %(default)s)")
    parser.add_argument("--setting", default="easy", choices=SETTINGS, help="how hard (default: %(default)s)")
    parser.add_argument("--episodes", type=COUNT, default=5, metavar="N",
                        help="how many episodes (default: %(default)s)")
    parser.add_argument("--seed", type=WHOLE, default=0, help="seed of the first scene; others follow (default: 0)")
    parser.add_argument("--model", default="tiny", help="name in models/ or path of a folder (default: %(default)s)")
    parser.add_argument("--runtime", default="auto", choices=RUNTIMES, help="what evaluates the model (default: auto)")
    parser.add_argument("--swap", action="store_true", help="change the sentence in motion; the new one counts")
    parser.add_argument("--swap-after", type=NOT_NEGATIVE, default=1.2, metavar="S",
                        help="seconds from arm to change (1.2)")
    parser.add_argument("--time-limit", type=POSITIVE, metavar="S",
                        help="seconds an episode may take (default: the task's own limit, and 3)")
    parser.add_argument("--out", type=Path, default=Path("demo"), metavar="DIR", help="folder of the results (demo)")
    parser.add_argument("--sheet", type=_picture, metavar="FILE", help="also write the contact sheet to a .png or .jpg")
    parser.add_argument("--record", action="store_true", help="record every topic into an MCAP file in the same folder")
    parser.add_argument("--imagine", action="store_true", help="publish what the model imagines as well")
    add_json_argument(parser)


def add_top_command_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `starry top`."""
    parser.add_argument("--robot", default="bimanual_sim", help="robot contract (default: %(default)s)")
    parser.add_argument("--namespace", default="", help="namespace of the graph (default: none)")
    parser.add_argument("--images", action="store_true", help="count camera frames, too; costs their transport")
    parser.add_argument("--once", type=POSITIVE, metavar="S", help="listen for S seconds, print once and end")


def add_chaos_command_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `starry chaos`."""
    listing = "; ".join(f"{name}: {summary}" for name, summary in SCENARIOS.items())
    names = [*SCENARIOS, "all"]
    parser.add_argument("--scenario", default="all", choices=names, metavar="NAME", help=f"all, or {listing}")
    parser.add_argument("--times", type=COUNT, default=1, metavar="N", help="how often each is played (default: 1)")
    parser.add_argument("--model", default="tiny", help="model that plans (default: %(default)s)")
    parser.add_argument("--runtime", default="auto", choices=RUNTIMES, help="what evaluates the model (default: auto)")
    parser.add_argument("--logs", type=Path, metavar="DIR",
                        help="keep there what the nodes print, and what the robot did in plays that fail")
    add_json_argument(parser)
