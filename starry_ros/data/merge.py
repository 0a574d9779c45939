"""Several data folders as one: `starry data merge`. Episodes are linked where the disk allows it, else copied.

The merged episodes count through the folders in the order they were given, so the same call gives the same data.
"""

from __future__ import annotations

import argparse
import os
import shutil
from pathlib import Path

from starry_ros.data.store import episode_files, episode_path, read_episode, write_meta
from starry_ros.errors import DataError
from starry_ros.paths import robot_file
from starry_ros.robot_spec import RobotSpec, load_robot_spec
from starry_ros.training.summary import check_contract, read_meta
from starry_ros.types import Record

MUST_AGREE = ("contract_hash", "layout_hash", "frame_hz")


def merge(folders: list[Path], out: Path, spec: RobotSpec) -> Record:
    """Put the episodes of `folders` into `out`; returns its meta.json.

    Raises DataError, before anything is written, if `out` holds anything, if the folders are not of one robot, canvas
    and rate, those of `spec`, or if an episode is broken.
    """
    if out.exists() and any(out.iterdir()):
        raise DataError(str(out), "is not empty", fix="choose another folder")
    metas = [read_meta(folder) for folder in folders]
    for name in MUST_AGREE:
        found = {str(folder): meta.get(name) for folder, meta in zip(folders, metas, strict=True)}
        if len(set(found.values())) != 1:
            raise DataError("starry data merge", f"the folders differ in {name}", got=found)
    for folder in folders:
        check_contract(folder, spec)
    files = [path for folder in folders for path in episode_files(folder)]
    for path in files:
        _check_whole(path)
    (out / "episodes").mkdir(parents=True)
    for index, path in enumerate(files):
        _link(path.resolve(), episode_path(out, index))
    tasks = sorted({task for meta in metas for task in meta.get("tasks", [])})
    settings = sorted({str(meta.get("setting", "")) for meta in metas})
    sources = [part for folder, meta in zip(folders, metas, strict=True) for part in _parts(folder, meta)]
    return write_meta(out, spec, tasks=tasks, setting=",".join(settings), merged_from=sources)


def _parts(folder: Path, meta: Record) -> list[Record]:
    """What a folder was merged from, if it was; else the folder itself."""
    whole = {"data_hash": meta.get("data_hash"), "seed": meta.get("seed"), "tasks": meta.get("tasks", []),
             "episodes": len(episode_files(folder))}
    return list(meta.get("merged_from", [whole]))


def _check_whole(path: Path) -> None:
    try:
        read_episode(path)
    except DataError as error:
        raise DataError(str(path), error.what, fix="make it again, or delete it") from error


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another disk, or one without links
        shutil.copyfile(source, target)


def merge_command(args: argparse.Namespace) -> int:
    """`starry data merge`: returns 0."""
    meta = merge(args.folders, args.out, load_robot_spec(robot_file(args.robot)))
    print(f"{args.out}: {meta['episodes']} episodes, {meta['frames']} frames, data hash {meta['data_hash']}")
    return 0
