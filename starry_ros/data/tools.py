"""`starry data show | trim | resample | annotate | check`: what data sets need before they are trained on.

The tools that change episodes write another folder and leave the first as it is.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from starry_ros.canvas.layout import t_pose_layout
from starry_ros.data.calibration import calibration_of
from starry_ros.data.contacts import WITH_DEPTH, annotate, future_plan
from starry_ros.data.journal import Journal, fingerprint, work_through
from starry_ros.data.recording import GRID_TOLERANCE_S
from starry_ros.data.store import (
    episode_files,
    read_episode,
    read_without_canvas,
    sentences,
    take_frames,
    write_episode,
)
from starry_ros.data.transfer import finish
from starry_ros.errors import ConfigError, DataError
from starry_ros.kinematics.robot import RobotKinematics
from starry_ros.paths import robot_file
from starry_ros.report import print_table, write_report
from starry_ros.robot_spec import RobotSpec, load_robot_spec
from starry_ros.sim.choices import STAGES
from starry_ros.training.form import Arrays, progress_of, unlike
from starry_ros.training.summary import check_contract, read_meta
from starry_ros.types import U8, Record

MOVING_RAD_S = 0.02
SHEET_FRAMES = 8
AS_PLANNED = ("clean", "recorded")
"""Kinds of episodes whose commands are what was meant. In all others, which `training/disturb.py` and
`training/correct.py` make, plans are the expert's, and commands disturbed, misled or a model's."""
EVENT_COLOURS = ((255, 40, 200), (40, 220, 255))


def change(
    folder: Path, out: Path, spec: RobotSpec, name: str, claim: Record, edit: Callable[[Arrays], Arrays], skip_bad: bool
) -> list[str]:
    """Write `edit` of every episode of `folder` to `out`; returns what is wrong with those that were skipped.

    DataError if `out` holds episodes of another `claim` or folder, or of this one before its episodes changed.
    """
    check_contract(folder, spec)
    if out.resolve() == folder.resolve():
        raise ConfigError("--out", "is the folder that is read", got=str(out), fix="choose another folder")
    files = episode_files(folder)
    journal = Journal(out, name, {"source": str(folder.resolve()), "files": fingerprint(files), **claim})

    def work(index: int) -> None:
        arrays = read_episode(files[index])
        try:
            edited = edit(arrays)
        except DataError as error:
            raise DataError(str(files[index]), str(error)) from error
        write_episode(out / "episodes" / files[index].name, edited)

    return work_through([path.stem for path in files], work, skip_bad, journal)


def trimmed(arrays: Arrays, spec: RobotSpec, keep_s: float, start_s: float = 0.0, end_s: float | None = None) -> Arrays:
    """The frames from `start_s` to `end_s`, without the rest before the first and after the last motion but `keep_s`.

    DataError if fewer than two frames are left.
    """
    times = arrays["time_s_T"].astype(np.float64)
    chosen = np.flatnonzero((times >= start_s - 1e-6) & (times <= (times[-1] if end_s is None else end_s) + 1e-6))
    moving = np.flatnonzero(_moving(arrays, spec)[chosen]) if len(chosen) else chosen
    if len(moving):
        keep = round(keep_s / spec.action.step_s)
        chosen = chosen[max(0, moving[0] - keep) : moving[-1] + 2 + keep]
    if len(chosen) < 2:
        raise DataError("trim", "leaves fewer than two frames", got=len(chosen))
    kept = take_frames(arrays, chosen)
    kept["time_s_T"] = (kept["time_s_T"] - kept["time_s_T"][0]).astype(np.float32)
    return kept


def _moving(arrays: Arrays, spec: RobotSpec) -> NDArray[np.bool_]:
    """Frames [T] after which a command or a joint moves; grippers count by the share of their range."""
    span = np.where([joint.unit == "rad" for joint in spec.joints], 1.0, spec.limit("upper") - spec.limit("lower"))
    both = np.concatenate([arrays["position_TJ"] / span, arrays["command_TJ"] / span], axis=1)
    moving = np.abs(np.diff(both, axis=0)).max(axis=1) > MOVING_RAD_S * spec.action.step_s
    return np.concatenate([moving, moving[-1:]])


def respaced(arrays: Arrays, spec: RobotSpec, speed: float) -> Arrays:
    """The episode `speed` times as fast, at the model's rate: joints interpolated, images and labels the latest.

    Plans are made anew from the commands. Gaps in the times are filled. DataError on an episode whose plans are not its
    commands.
    """
    kind = str(arrays.get("kind", ""))
    if kind not in AS_PLANNED:
        raise DataError(
            "resample", "would make the plans of what was done, which here are mistakes",
            got=f"an episode of kind {kind}, whose plans are the expert's" if kind else "an episode of unknown kind",
            expected=f"one of kind {' or '.join(AS_PLANNED)}", fix="use it as it is; --skip-bad resamples the others",
        )
    step_s, times = spec.action.step_s, arrays["time_s_T"].astype(np.float64) / speed
    times = times - times[0]
    grid = np.arange(int((times[-1] + GRID_TOLERANCE_S) / step_s) + 1) * step_s
    if len(grid) < 2:
        raise DataError("resample", "leaves fewer than two frames", got=len(grid), fix="take a lower --speed")
    latest = np.clip(np.searchsorted(times, grid + 1e-3 * step_s, side="right") - 1, 0, len(times) - 1)
    changed = take_frames(arrays, latest)
    for name in ("position_TJ", "command_TJ", "velocity_TJ"):
        if name in arrays:
            columns = [np.interp(grid, times, column) for column in arrays[name].astype(np.float64).T]
            changed[name] = np.column_stack(columns).astype(np.float32)
    if "velocity_TJ" in changed:
        changed["velocity_TJ"] = (changed["velocity_TJ"] * speed).astype(np.float32)
    changed["time_s_T"] = grid.astype(np.float32)
    changed["plan_TKJ"] = future_plan(changed["position_TJ"], changed["command_TJ"], spec.action.chunk_steps)
    return changed


def relabelled(spec: RobotSpec, arrays: Arrays, from_joints: bool) -> Arrays:
    """With progress; with events and stages from gripper events and kinematics too if asked for.

    Cameras are those that the episode was recorded with, as far as it stores their calibration. Commands that are the
    joints themselves were not recorded, and say nothing of a jaw that presses. DataError on labels that needed depth.
    """
    if from_joints and WITH_DEPTH in arrays:
        raise DataError(
            "annotate --from-joints", "was labelled with depth, which episodes do not store",
            fix="import the recording anew; --skip-bad labels the others",
        )
    if from_joints:
        robot = RobotKinematics(spec, calibration_of(arrays, spec))
        told = not np.array_equal(arrays["command_TJ"], arrays["position_TJ"])
        return annotate(robot, t_pose_layout(spec), arrays, trust_command=told)
    return {**arrays, "progress_T": progress_of(arrays["stage_T"].astype(np.int8))}


def label_difference(before: Arrays, after: Arrays) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Distances in canvas pixels between two labellings where both see a contact, and the frames of equal stages."""
    old, new = before["events_TEVF"].astype(np.float64), after["events_TEVF"].astype(np.float64)
    both = (old[..., 3] > 0) & (new[..., 3] > 0)
    distance = np.hypot(*(old - new)[..., :2][both].T)
    return distance, before["stage_T"] == after["stage_T"]


def sheet(arrays: Arrays, spec: RobotSpec, frames: int = SHEET_FRAMES) -> U8:
    """Canvases of an episode side by side, twice their size, with the labelled contacts (ring: not visible)."""
    canvas, events = arrays["canvas_THWC"].astype(np.uint8), arrays["events_TEVF"]
    pictures = []
    for frame in np.linspace(0, len(canvas) - 1, min(frames, len(canvas))).round().astype(int):
        picture = cv2.resize(canvas[frame], None, fx=2, fy=2, interpolation=cv2.INTER_NEAREST)
        for event, colour in zip(events[frame], EVENT_COLOURS, strict=True):
            for u_px, v_px, sigma_px, inside, visible in event:
                if inside:
                    centre, radius = (round(2 * u_px + 0.5), round(2 * v_px + 0.5)), max(3, round(float(sigma_px)))
                    cv2.circle(picture, centre, radius, colour, -1 if visible else 1, cv2.LINE_AA)
        text = f"{arrays['time_s_T'][frame]:.1f} s {STAGES[int(arrays['stage_T'][frame])]}"
        cv2.putText(picture, text, (4, 12), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (255, 255, 255), 1, cv2.LINE_AA)
        pictures.append(picture)
    row: U8 = np.concatenate(pictures, axis=1)
    return row


def episode_row(path: Path, arrays: Arrays) -> Record:
    """One line of `show` and `check`."""
    stages = [STAGES[int(i)] for i in arrays["stage_T"]]
    return {
        "episode": path.stem, "kind": str(arrays["kind"]) if "kind" in arrays else "-", "frames": len(stages),
        "seconds": float(arrays["time_s_T"][-1] - arrays["time_s_T"][0]),
        "stages": "-".join(stage for i, stage in enumerate(stages) if i == 0 or stage != stages[i - 1]),
        "labelled": float((arrays["events_TEVF"][:, 0, :, 3] > 0).any(axis=1).mean()),
        "visible": float((arrays["events_TEVF"][:, 0, :, 4] > 0).any(axis=1).mean()),
        "empty_closed": int(arrays["empty_closed_T"].sum()), "sentence": sentences(arrays)[0],
    }


def trim_command(args: argparse.Namespace) -> int:
    """`starry data trim`: returns 0, or 1 when something was skipped."""
    spec = load_robot_spec(robot_file(args.robot))
    claim = {"keep_s": args.keep, "start_s": args.start, "end_s": args.end}
    bad = change(args.folder, args.out, spec, "trim", claim,
                 lambda arrays: trimmed(arrays, spec, args.keep, args.start, args.end), args.skip_bad)
    return finish(args.out, spec, bad, **_origin(args.folder, bad))


def resample_command(args: argparse.Namespace) -> int:
    """`starry data resample`: returns 0, or 1 when something was skipped."""
    if not 0.1 <= args.speed <= 10:
        raise ConfigError("--speed", "is out of range", got=args.speed, expected="0.1 to 10")
    spec = load_robot_spec(robot_file(args.robot))
    bad = change(args.folder, args.out, spec, "resample", {"speed": args.speed},
                 lambda arrays: respaced(arrays, spec, args.speed), args.skip_bad)
    return finish(args.out, spec, bad, **_origin(args.folder, bad))


def annotate_command(args: argparse.Namespace) -> int:
    """`starry data annotate`: says how far new labels lie from the old; returns 1 when something was skipped."""
    spec = load_robot_spec(robot_file(args.robot))
    bad = change(args.folder, args.out, spec, "annotate", {"from_joints": args.from_joints},
                 lambda arrays: relabelled(spec, arrays, args.from_joints), args.skip_bad)
    if args.from_joints:
        _tell_difference(args.folder, args.out)
    return finish(args.out, spec, bad, **_origin(args.folder, bad))


def _tell_difference(before: Path, after: Path) -> None:
    """Say how far labels have moved over all episodes of `after`, those of earlier calls included."""
    files = episode_files(after)
    found = [label_difference(read_without_canvas(before / "episodes" / path.name), read_without_canvas(path))
             for path in files]
    distances = np.concatenate([distance for distance, _ in found])
    if len(distances):
        half, most = np.percentile(distances, (50, 90))
        equal = np.concatenate([same for _, same in found]).mean()
        print(f"against the labels before, in {len(files)} episodes: median {half:.2f} px, 90 % within {most:.2f} px "
              f"on the canvas, stages equal in {100 * equal:.1f} % of the frames")


def _origin(folder: Path, bad: Sequence[str]) -> Record:
    """What is still true of the episodes; skipped ones leave open which episode came from which merged folder."""
    names = ("tasks", "setting", "seed", *(() if bad else ("merged_from",)))
    return {name: value for name, value in read_meta(folder).items() if name in names}


def show_command(args: argparse.Namespace) -> int:
    """`starry data show`: one line an episode, or one episode and its picture."""
    files = episode_files(args.folder)
    if args.episode is not None:
        if not 0 <= args.episode < len(files):
            raise ConfigError("--episode", "is out of range", got=args.episode, expected=f"0 to {len(files) - 1}")
        files = [files[args.episode]]
    rows = [episode_row(path, read_episode(path)) for path in files]
    print_table(rows)
    if args.png:
        picture = sheet(read_episode(files[0]), load_robot_spec(robot_file(args.robot)))
        args.png.parent.mkdir(parents=True, exist_ok=True)
        if not cv2.imwrite(str(args.png), picture[..., ::-1]):
            raise ConfigError(str(args.png), "cannot be written")
        print(args.png)
    if args.json:
        write_report(args.json, rows, folder=args.folder)
    return 0


def check_command(args: argparse.Namespace) -> int:
    """`starry data check`: names every bad episode, not only the first; returns 1 if there is one."""
    files, rows, first = episode_files(args.folder), list[Record](), Arrays()

    def judge(index: int) -> None:
        arrays = read_episode(files[index])
        if problem := unlike(arrays, first or arrays):
            raise DataError(str(files[index]), problem, fix="keep it in a folder of its own, or make it again")
        first.update({} if first else arrays)
        rows.append(episode_row(files[index], arrays))

    bad = work_through([path.stem for path in files], judge, skip_bad=True)
    bare = [row["episode"] for row in rows if row["labelled"] == 0.0]
    frames = sum(row["frames"] for row in rows)
    print(f"{args.folder}: {len(rows)} sound episodes, {frames} frames, {len(bad)} bad ones")
    if bare:
        print(f"without any contact label: {', '.join(bare)}")
    for note in bad:
        print(note)
    if args.json:
        write_report(args.json, rows, folder=args.folder, bad=bad)
    return 1 if bad else 0
