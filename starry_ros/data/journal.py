"""Long work on many units, such as episodes: progress on the terminal, resuming, and bad units by name."""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

from starry_ros.errors import DataError
from starry_ros.files import write_text
from starry_ros.types import Record

Notes = Sequence[str] | None
"""What is wrong with what a unit of work skipped."""


class Journal:
    """What a folder is made from, which units are done, and their numbers.

    `claim` is everything that shapes the episodes. DataError if the folder holds episodes of another claim; without
    episodes it may be claimed anew.
    """

    def __init__(self, folder: Path, name: str, claim: Record) -> None:
        self._path, self._claim = folder / f"{name}.json", json.loads(json.dumps(claim))
        found: Record | None = json.loads(self._path.read_text()) if self._path.exists() else None
        if not any((folder / "episodes").glob("*.npz")):
            found = {"from": self._claim}
        if found is None:
            raise DataError(str(folder), "holds other episodes", fix="choose another folder")
        _refuse_another(folder, f"holds episodes of another {name}", found["from"], self._claim)
        self._notes: dict[str, list[str]] = {unit: _listed(notes) for unit, notes in found.get("done", {}).items()}
        self._prints: dict[str, str] = found.get("prints", {})
        self._numbers: dict[str, int] = found.get("numbers", {})
        folder.mkdir(parents=True, exist_ok=True)

    def finished(self, unit: str, print_: str = "") -> bool:
        """Whether all of a unit succeeded; one that was skipped, or a part of it, is tried again.

        So is one whose fingerprint is another than when it was done.
        """
        return self._notes.get(unit) == [] and self._prints.get(unit, print_) == print_

    def others(self, units: Iterable[str]) -> list[str]:
        """Units that were done with, but are not of these."""
        return sorted(set(self._notes) - set(units))

    def forget(self, unit: str) -> None:
        """As if a unit had never been done."""
        del self._notes[unit]
        self._prints.pop(unit, None)
        self._write()

    def number(self, unit: str) -> int:
        """A unit's number, which it keeps: a new unit takes the next free one."""
        if unit not in self._numbers:
            self._numbers[unit] = len(self._numbers)
            self._write()
        return self._numbers[unit]

    def mark(self, unit: str, notes: Notes = None, print_: str = "") -> None:
        """A unit is done with; `notes` say what is wrong with what was skipped."""
        self._notes[unit], self._prints[unit] = list(notes or ()), print_
        self._write()

    def _write(self) -> None:
        content = {"from": self._claim, "done": self._notes, "prints": self._prints,
                   "numbers": self._numbers}
        write_text(self._path, json.dumps(content, indent=1) + "\n")

    @property
    def bad(self) -> list[str]:
        """What was skipped, with reasons."""
        return [note for notes in self._notes.values() for note in notes]


def claim_folder(out: Path, name: str, claim: Record, foreign: bool) -> None:
    """Note in a file of `out` what the folder is made from.

    DataError if it is made from something else, or is `foreign`: holds files that came without such a note.
    """
    path, claim = out / name, json.loads(json.dumps(claim))
    if path.exists():
        _refuse_another(out, "holds another data set, or an earlier state of this one", json.loads(path.read_text()),
                        claim)
    elif foreign:
        raise DataError(str(out), "holds a data set from elsewhere", fix="choose another folder")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(claim, indent=1) + "\n")


def fingerprint(files: Iterable[Path]) -> str:
    """Tells files from others of the same names by size and time of change: to read all of them would take long."""
    digest = hashlib.sha256()
    for path in files:
        found = path.stat() if path.exists() else None
        digest.update(f"{path.name} {found and (found.st_size, found.st_mtime_ns)}\n".encode())
    return digest.hexdigest()[:16]


def _refuse_another(folder: Path, what: str, before: Record, now: Record) -> None:
    """DataError if two claims are not the same."""
    if before != now:
        names = [name for name in {**before, **now} if before.get(name) != now.get(name)]
        got, expected = ({name: claim.get(name) for name in names} for claim in (before, now))
        fix = f"choose another folder, or delete {folder} to make it anew"
        raise DataError(str(folder), what, got=got, expected=expected, fix=fix)


def _listed(notes: str | list[str]) -> list[str]:
    """Notes of a unit; earlier journals hold one text."""
    return notes if isinstance(notes, list) else [notes] if notes else []


def attempt(work: Callable[[], Notes], skip_bad: bool) -> list[str]:
    """Do `work`; returns what is wrong with what it skipped. Its DataError ends all, or is noted when `skip_bad`."""
    try:
        return list(work() or ())
    except DataError as error:
        if not skip_bad:
            raise
        return [str(error)]


def work_through(
    units: Sequence[str], work: Callable[[int], Notes], skip_bad: bool, journal: Journal | None = None,
    what: str = "episodes", prints: Sequence[str] | None = None,
) -> list[str]:
    """Do `work(i)` for every unit that is not finished; returns what is wrong with what was skipped.

    `prints` are the units' fingerprints: one that has changed is done again. A DataError of `work` ends it, or is noted
    when `skip_bad` is set; what `work` returns is noted too.
    """
    begin_s, bad, every = time.monotonic(), [], list(zip(units, prints or [""] * len(units), strict=True))
    todo = [index for index, unit in enumerate(every) if journal is None or not journal.finished(*unit)]
    for count, index in enumerate(todo, 1):
        notes = attempt(partial(work, index), skip_bad)
        bad += notes
        if journal is not None:
            unit, print_ = every[index]
            journal.mark(unit, notes, print_)
        show_progress(count, len(todo), time.monotonic() - begin_s, what)
    return bad if journal is None else journal.bad


def show_progress(count: int, total: int, elapsed_s: float, what: str = "episodes") -> None:
    """A bar that stays in place on a terminal; elsewhere a line at every tenth part."""
    left_s = elapsed_s / count * (total - count)
    if sys.stderr.isatty():
        filled = round(30 * count / total)
        bar = "#" * filled + "." * (30 - filled)
        end = "" if count < total else "\n"
        print(f"\r\033[K[{bar}] {count}/{total} {what}, {left_s:.0f} s left", end=end, file=sys.stderr, flush=True)
    elif count == total or count % max(1, total // 10) == 0:
        print(f"{count}/{total} {what}, {left_s:.0f} s left", file=sys.stderr, flush=True)


def tell_bad(bad: Sequence[str]) -> None:
    """Name what was skipped."""
    for note in bad:
        print(f"skipped: {note}", file=sys.stderr)
