"""`starry data import` and `starry data export`."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from starry_ros.data.journal import (
    Journal,
    attempt,
    claim_folder,
    fingerprint,
    show_progress,
    tell_bad,
    work_through,
)
from starry_ros.data.lerobot_format import INFO_FILE
from starry_ros.data.lerobot_read import LeRobotReader, Mapping
from starry_ros.data.lerobot_write import export_lerobot
from starry_ros.data.mcap_read import mcap_episodes
from starry_ros.data.mcap_write import export_mcap
from starry_ros.data.recording import Recording, to_episode
from starry_ros.data.store import (
    Forms,
    episode_files,
    episode_path,
    frame_forms,
    read_episode,
    write_episode,
    write_meta,
)
from starry_ros.errors import ConfigError, DataError
from starry_ros.paths import robot_file
from starry_ros.robot_spec import RobotSpec, load_robot_spec
from starry_ros.training.form import Arrays, progress_of
from starry_ros.training.summary import check_contract
from starry_ros.types import Record

EPISODES_A_FILE = 1000
EPISODE = "episode"
NAMED = 5
"""Episodes that an error names where many have the same fault."""


def import_lerobot(folder: Path, out: Path, spec: RobotSpec, mapping: Mapping, skip_bad: bool = False) -> list[str]:
    """Bring every episode of a LeRobot data set into `out`; returns what is wrong with those that were skipped.

    What was skipped before is tried again, what has changed since is brought in anew, and what is gone is removed.
    DataError if `out` holds episodes of another source or mapping, or if there are no episodes.
    """
    reader = LeRobotReader(folder, spec, mapping)
    numbers = [int(row["episode_index"]) for row in reader.rows]
    if not numbers:
        raise DataError(str(folder), "lists no episodes", fix="copy its folder meta again")
    shape = {name: value for name, value in dataclasses.asdict(mapping).items() if name != "instruction" or value}
    shape |= ({"sign": "driver"} if (spec.limit("sign") < 0).any() else {})
    journal = Journal(out, "import", _claim(str(folder.resolve()), spec, shape))
    units = [f"{EPISODE} {number}" for number in numbers]
    for unit in journal.others(units):
        episode_path(out, int(unit.removeprefix(EPISODE))).unlink(missing_ok=True)
        journal.forget(unit)

    def bring(index: int) -> None:
        _store(episode_path(out, numbers[index]), reader.recording(index), spec)

    prints = [reader.fingerprint(index) for index in range(len(reader))]
    return work_through(units, bring, skip_bad, journal, prints=prints)


def import_mcap(
    files: Sequence[Path], out: Path, spec: RobotSpec, instruction: str = "", skip_bad: bool = False
) -> list[str]:
    """Bring every episode of MCAP files into `out`; returns what is wrong with those that were skipped.

    File number and episode number make an episode's name; a file keeps its number. A file of which anything was skipped
    before, or that has changed since, is brought in again. DataError if `out` holds episodes of another source or
    instruction.
    """
    journal = Journal(out, "import", _claim("mcap", spec, {"instruction": instruction}))
    sources = list(dict.fromkeys(str(path.resolve()) for path in files))

    def bring(index: int) -> list[str]:
        first = journal.number(sources[index]) * EPISODES_A_FILE
        return _bring_file(Path(sources[index]), out, first, spec, instruction, skip_bad)

    prints = [fingerprint([Path(source)]) for source in sources]
    return work_through(sources, bring, skip_bad, journal, "files", prints)


def _claim(source: str, spec: RobotSpec, mapping: Record) -> Record:
    """All that shapes the episodes of an import: a folder holds those of one."""
    return {"source": source, "contract_hash": spec.content_hash, "mapping": mapping}


def _bring_file(path: Path, out: Path, first: int, spec: RobotSpec, instruction: str, skip_bad: bool) -> list[str]:
    """Store the episodes of one file, numbered from `first` on; returns what is wrong with those that were skipped."""
    episodes, kept = mcap_episodes(path, spec, instruction), set()
    if len(episodes) > EPISODES_A_FILE:
        raise DataError(str(path), "holds too many episodes", got=len(episodes), expected=f"<= {EPISODES_A_FILE}",
                        fix="record fewer in a file")

    def bring(number: int) -> None:
        recording = episodes[number]()
        if recording is not None:
            _store(episode_path(out, first + number), recording, spec)
            kept.add(first + number)

    notes = [note for number in range(len(episodes)) for note in attempt(partial(bring, number), skip_bad)]
    if not kept and not notes:
        raise DataError(str(path), "holds no episode of a second or more")
    for number in set(range(first, first + EPISODES_A_FILE)) - kept:  # of an earlier copy of this file
        episode_path(out, number).unlink(missing_ok=True)
    return notes


def _store(path: Path, recording: Recording, spec: RobotSpec) -> None:
    """Label and write one episode; an error names the recording."""
    try:
        write_episode(path, to_episode(recording, spec))
    except DataError as error:
        raise error if recording.where in str(error) else DataError(recording.where, str(error)) from error


def export(folder: Path, out: Path, spec: RobotSpec, kind: str, skip_bad: bool = False) -> list[str]:
    """Write a data folder as `lerobot` or `mcap`; returns what is wrong with the episodes that were skipped.

    DataError if `out` was written from other episodes, or from these before they changed.
    """
    check_contract(folder, spec)
    files = episode_files(folder)
    if kind == "mcap":
        claim = {"contract_hash": spec.content_hash, "source": fingerprint(files)}
        claim_folder(out, "export.json", claim, foreign=any(out.glob("*.mcap")))

        def write(index: int) -> None:
            path = out / f"{files[index].stem}.mcap"
            if not path.exists():
                export_mcap(path, read_episode(files[index]), spec)

        return work_through([path.stem for path in files], write, skip_bad)
    bad: list[str] = []
    if skip_bad:
        files = [path for path in files if _sound(path, bad)]
        if not files:
            raise DataError(str(folder), "holds no sound episode", got=bad[0], fix="make them again")
    _alike(files)
    readers = [partial(_with_progress, path) for path in files]
    export_lerobot(readers, out, spec, fingerprint(files), partial(show_progress, what="episodes"))
    return bad


def _alike(files: Sequence[Path]) -> None:
    """DataError if episodes hold unlike arrays: in a LeRobot data set all have the same features.

    Which of them hold progress does not matter: it is written for all (`_with_progress`).
    """
    first = frame_forms(files[0])
    unlike = {path.stem: _unlike(first, frame_forms(path)) for path in files[1:]}
    named = [f"{episode} {', '.join(parts)}" for episode, parts in unlike.items() if parts]
    if named:
        more = f"; and {len(named) - NAMED} more" if len(named) > NAMED else ""
        raise DataError(
            str(files[0].parent), "holds episodes of unlike arrays, which no LeRobot data set can",
            got="; ".join(named[:NAMED]) + more, expected=f"in all of them those of {files[0].stem}",
            fix="export them from folders of their own",
        )


def _unlike(first: Forms, other: Forms) -> list[str]:
    """In which arrays, and how, an episode differs from the first."""
    first, other = ({name: form for name, form in some.items() if name != "progress_T"} for some in (first, other))
    lacks = [f"lacks {name}" for name in first if name not in other]
    adds = [f"adds {name}" for name in other if name not in first]
    forms = [f"has {name} of another form" for name, form in first.items() if other.get(name, form) != form]
    return [*lacks, *adds, *forms]


def _with_progress(path: Path) -> Arrays:
    """An episode, with progress also where it was written without, as by earlier versions of `starry data generate`."""
    arrays = read_episode(path)
    return {"progress_T": progress_of(arrays["stage_T"].astype(np.int8)), **arrays}


def _sound(path: Path, bad: list[str]) -> bool:
    try:
        read_episode(path)
    except DataError as error:
        bad.append(str(error))
        return False
    return True


def import_command(args: argparse.Namespace) -> int:
    """`starry data import`: returns 0 when everything was brought in, 1 when something was skipped."""
    spec = load_robot_spec(robot_file(args.robot))
    files = _mcap_files(args.sources)
    if files:
        _refuse_lerobot_options(args)
        bad = import_mcap(files, args.out, spec, args.instruction, args.skip_bad)
    else:
        cameras = dict(_pair(text) for text in args.camera)
        gripper_range = tuple(args.gripper_range) if args.gripper_range else None
        mapping = Mapping(cameras, args.by_position, args.degrees, gripper_range,  # type: ignore[arg-type]
                          args.instruction)
        bad = import_lerobot(args.sources[0], args.out, spec, mapping, args.skip_bad)
    return finish(args.out, spec, bad, tasks=[args.task] if args.task else [])


def finish(out: Path, spec: RobotSpec, bad: Sequence[str], **more: object) -> int:
    """Write meta.json, say what there is and what was skipped; the exit code."""
    tell_bad(bad)
    meta: Record = write_meta(out, spec, **more)
    print(f"{out}: {meta['episodes']} episodes, {meta['frames']} frames, data hash {meta['data_hash']}")
    return 1 if bad else 0


def _mcap_files(sources: Sequence[Path]) -> list[Path]:
    """The MCAP files among, or in the folders of, `sources`; none if they are one LeRobot data set.

    DataError on a source that is, or holds, nothing to import.
    """
    found = {source: _mcap_files_of(source) for source in sources}
    if len(sources) == 1 and (sources[0] / INFO_FILE).exists():
        return []
    for source, files in found.items():
        if (source / INFO_FILE).exists():
            raise DataError(str(source), "is a LeRobot data set beside other sources",
                            expected="one LeRobot data set, or MCAP files", fix="import it by a command of its own")
        if not files:
            raise DataError(str(source), "holds nothing to import", expected=f"*.mcap, or {INFO_FILE} of a LeRobot "
                            "data set", fix="name the files, or the folder that holds them")
    return [path for files in found.values() for path in files]


def _mcap_files_of(source: Path) -> list[Path]:
    if not source.exists():
        raise DataError(str(source), "does not exist")
    if source.is_dir():
        return sorted(source.glob("*.mcap"))
    return [source] if source.suffix == ".mcap" else []


def _refuse_lerobot_options(args: argparse.Namespace) -> None:
    given = {"--camera": args.camera, "--by-position": args.by_position, "--degrees": args.degrees,
             "--gripper-range": args.gripper_range}
    named = ", ".join(name for name, value in given.items() if value)
    if named:
        raise ConfigError(named, "acts on LeRobot data sets alone", got="MCAP files",
                          fix="leave it out: in MCAP files topics and joints have the contract's names, rad and m")


def _pair(text: str) -> tuple[str, str]:
    name, sign, value = text.partition("=")
    if not sign:
        raise ConfigError("--camera", "is not NAME=FEATURE", got=text)
    return name, value


def export_command(args: argparse.Namespace) -> int:
    """`starry data export`: returns 0 when everything was written, 1 when something was skipped."""
    spec = load_robot_spec(robot_file(args.robot))
    bad = export(args.folder, args.out, spec, args.format, args.skip_bad)
    tell_bad(bad)
    print(f"{args.out}: written as {args.format}")
    return 1 if bad else 0
