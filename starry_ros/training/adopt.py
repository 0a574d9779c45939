"""`starry model adopt`: let a published model serve a robot, by writing the `serving.json` that its folder lacks.

Slots are those of LingBot-VA (14 to 27 joints, 28 and 29 grippers) unless told otherwise. Quantiles come from the data
that the model was fine-tuned on, or from a JSON file with `q01` and `q99`: LingBot-VA's `norm_stat`, a number a slot.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from starry_ros.errors import CheckpointError, ConfigError
from starry_ros.paths import robot_file
from starry_ros.report import print_table, write_report
from starry_ros.robot_spec import RobotSpec, load_robot_spec
from starry_ros.training.arguments import WAN_CHANGES
from starry_ros.training.dataset import read_episodes
from starry_ros.training.summary import check_contract
from starry_ros.types import F64, Record
from starry_ros.wam.wan.adapter import transformer_config
from starry_ros.wam.wan.files import read_json
from starry_ros.wam.wan.open import TRANSFORMER, configure, is_public
from starry_ros.wam.wan.serving import FILE, usual_slots, write_serving
from starry_ros.wam.wan.vae import GROUP


def adopt_command(args: argparse.Namespace) -> int:
    """Write serving.json, check it against model and robot, and say what a chunk will be."""
    if (args.quantiles is None) == (args.data is None):
        raise ConfigError("model adopt", "needs the quantiles of the actions once", fix="give --quantiles or --data")
    if not is_public(args.folder):
        raise CheckpointError(str(args.folder), "is no folder of public weights", expected=f"{TRANSFORMER}/config.json",
                              fix="give the folder that holds transformer/, vae/, text_encoder/ and tokenizer/")
    spec, where = load_robot_spec(robot_file(args.robot)), args.folder / TRANSFORMER / "config.json"
    width = transformer_config(read_json(where), str(where))[0].joints
    slots = usual_slots(spec) | _given_slots(args.slot)
    q01_A, q99_A = quantiles_of_file(args.quantiles) if args.quantiles else quantiles_of_data(
        args.data, spec, slots, width)
    changes = {name: value for name in WAN_CHANGES if (value := getattr(args, name)) is not None}
    path = args.folder / FILE
    before = path.read_bytes() if path.is_file() else None
    write_serving(args.folder, spec, q01_A, q99_A, slots, **changes)
    try:
        shape, serving = configure(args.folder, spec)
    except Exception:
        path.unlink() if before is None else path.write_bytes(before)
        raise
    rows: list[Record] = [
        {"joint": name, "slot": slot, "q01": q01_A[slot], "q99": q99_A[slot]}
        for name, slot in zip(spec.joint_names, serving.slots, strict=True)]
    print_table(rows)
    step_s = spec.action.step_s
    print(f"\na chunk is {shape.chunk_actions} actions of {step_s:g} s = {shape.chunk_actions * step_s:.3g} s; a frame "
          f"every {shape.actions_per_latent // GROUP * step_s:.3g} s; history {shape.history_chunks} chunks")
    print(f"written: {path}")
    if args.json is not None:
        write_report(args.json, rows, robot=spec.name, folder=str(args.folder))
    return 0


def quantiles_of_file(path: Path) -> tuple[F64, F64]:
    """q01 and q99 by slot; `norm_stat` may lie around them."""
    raw = read_json(path)
    raw = raw.get("norm_stat", raw)
    if not isinstance(raw, dict) or not {"q01", "q99"} <= set(raw):
        raise CheckpointError(str(path), "holds no q01 and q99", got=sorted(raw), fix="copy the model's `norm_stat`")
    return np.array(raw["q01"], dtype=np.float64), np.array(raw["q99"], dtype=np.float64)


def quantiles_of_data(folder: Path, spec: RobotSpec, slots: Mapping[str, int], width: int) -> tuple[F64, F64]:
    """1st and 99th percentile of what every joint was commanded, in its slot; 0 and 1 in slots without a joint.

    Raises DataError on data of another robot.
    """
    check_contract(folder, spec)
    commands_TJ = np.concatenate([arrays["command_TJ"] for arrays in read_episodes(folder, ("command_TJ",))])
    q01_A, q99_A = np.zeros(width), np.ones(width)
    for joint, name in enumerate(spec.joint_names):
        low, high = np.percentile(commands_TJ[:, joint], [1, 99])
        limits = spec.joints[joint]
        if high - low < 1e-3 * (limits.upper - limits.lower):  # a joint that never moved: all it may do
            low, high = limits.lower, limits.upper
        q01_A[slots[name]], q99_A[slots[name]] = low, high
    return q01_A, q99_A


def _given_slots(given: list[str]) -> dict[str, int]:
    """Pairs JOINT=N. Raises ConfigError on anything else."""
    slots = {}
    for text in given:
        name, _, number = text.partition("=")
        if not number.isdigit():
            raise ConfigError("--slot", "is no JOINT=N", got=repr(text), expected="such as left_waist=14")
        slots[name] = int(number)
    return slots
