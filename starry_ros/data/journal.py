"""Long work on many units, such as episodes: progress on the terminal, resuming, and bad units by name."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from starry_ros.errors import DataError
from starry_ros.types import Record


class Journal:
    """What a folder was made from and which units are done. DataError if the folder was made from something else."""

    def __init__(self, folder: Path, name: str, claim: Record) -> None:
        self._path, self._claim = folder / f"{name}.json", claim
        found = json.loads(self._path.read_text()) if self._path.exists() else {"from": claim, "done": {}}
        if found["from"] != claim:
            fix = "choose another folder"
            raise DataError(str(folder), f"is another {name}", got=found["from"], expected=claim, fix=fix)
        if not self._path.exists() and (folder / "episodes").exists() and any((folder / "episodes").glob("*.npz")):
            raise DataError(str(folder), "holds other episodes", fix="choose another folder")
        self.done: dict[str, str] = found["done"]
        folder.mkdir(parents=True, exist_ok=True)

    def mark(self, unit: str, note: str = "") -> None:
        """A unit is finished; `note` says what is wrong with a bad one."""
        self.done[unit] = note
        part = self._path.with_name(f".{self._path.name}")
        part.write_text(json.dumps({"from": self._claim, "done": self.done}, indent=1) + "\n")
        part.rename(self._path)

    @property
    def bad(self) -> list[str]:
        """What was skipped, with reasons."""
        return [note for note in self.done.values() if note]


def work_through(
    units: Sequence[str], work: Callable[[int], None], skip_bad: bool, journal: Journal | None = None,
    what: str = "episodes",
) -> list[str]:
    """Do `work(i)` for every unit that is not done; returns what is wrong with the bad ones.

    A DataError of `work` ends it, or is noted when `skip_bad` is set.
    """
    begin_s, bad, todo = time.monotonic(), list(journal.bad if journal else []), []
    for index, unit in enumerate(units):
        if journal is None or unit not in journal.done:
            todo.append((index, unit))
    for count, (index, unit) in enumerate(todo, 1):
        note = ""
        try:
            work(index)
        except DataError as error:
            if not skip_bad:
                raise
            note = str(error)
            bad.append(note)
        if journal is not None:
            journal.mark(unit, note)
        show_progress(count, len(todo), time.monotonic() - begin_s, what)
    return bad


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
