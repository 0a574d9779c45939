"""Several data folders as one: `starry data merge`. Episodes are linked where the disk allows it, else copied.

The merged episodes count through the folders in the order they were given, so the same call gives the same data; one
that was cut off goes on where it stopped.
"""

from __future__ import annotations

import argparse
import os
import shutil
from pathlib import Path

from starry_ros.data.journal import Journal, fingerprint, work_through
from starry_ros.data.store import episode_files, episode_path, read_episode, write_meta
from starry_ros.errors import DataError
from starry_ros.paths import robot_file
from starry_ros.robot_spec import RobotSpec, load_robot_spec
from starry_ros.training.summary import check_contract, read_meta
from starry_ros.types import Record

MUST_AGREE = ("contract_hash", "layout_hash", "frame_hz")


def merge(folders: list[Path], out: Path, spec: RobotSpec) -> Record:
    """Put the episodes of `folders` into `out`; returns its meta.json.

    Raises DataError, before anything is written, if `out` holds other episodes than of this merge, or if the folders
    are not of one robot, canvas and rate, those of `spec`; and at an episode that is broken.
    """
    metas = [read_meta(folder) for folder in folders]
    for name in MUST_AGREE:
        found = {str(folder): meta.get(name) for folder, meta in zip(folders, metas, strict=True)}
        if len(set(found.values())) != 1:
            raise DataError("starry data merge", f"the folders differ in {name}", got=found)
    for folder in folders:
        check_contract(folder, spec)
    parts = [[str(folder.resolve()), len(episode_files(folder))] for folder in folders]
    journal = Journal(out, "merge", {"contract_hash": spec.content_hash, "folders": parts})
    (out / "episodes").mkdir(exist_ok=True)
    files = [path.resolve() for folder in folders for path in episode_files(folder)]
    targets = [episode_path(out, index) for index in range(len(files))]

    def take(index: int) -> None:
        _check_whole(files[index])
        _link(files[index], targets[index])

    work_through([path.stem for path in targets], take, False, journal, prints=[fingerprint([path]) for path in files])
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
        fix = "make it again, and the same merge goes on; or delete it, and what was merged so far too"
        raise DataError(str(path), error.what, fix=fix) from error


def _link(source: Path, target: Path) -> None:
    """Put an episode in its place in one move. What is there may be a link to another: it is not written into."""
    part = target.with_name(f"{target.name}.partial")
    for path in (part, target):
        path.unlink(missing_ok=True)
    try:
        os.link(source, part)
    except OSError:  # another disk, or one without links
        shutil.copyfile(source, part)
    part.rename(target)


def merge_command(args: argparse.Namespace) -> int:
    """`starry data merge`: returns 0."""
    meta = merge(args.folders, args.out, load_robot_spec(robot_file(args.robot)))
    print(f"{args.out}: {meta['episodes']} episodes, {meta['frames']} frames, data hash {meta['data_hash']}")
    return 0
