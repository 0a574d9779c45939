"""One page a human reads: the table of an evaluation, what it was measured on, pictures of successes and failures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from starry_ros.errors import ConfigError
from starry_ros.files import write_text
from starry_ros.report import conditions
from starry_ros.types import Record

COLUMNS = (
    ("model", "model"), ("policy", "policy"), ("task", "task"), ("setting", "setting"), ("case", "case"),
    ("mode", "planning"), ("latency_s", "latency, s"), ("played", "played"),
    ("episodes", "episodes"), ("success", "success"), ("interval", "95 % (Wilson)"), ("won", "won"),
    ("lost", "lost"), ("by_chance", "by chance"), ("mean_s", "seconds to success"),
    ("stall", "stalls"), ("worst_delay_s", "limits: worst delay, s"), ("refused", "refused plans"),
    ("hit", "map hit"), ("landing_px", "map to contact, px"), ("imagined", "imagined error"),
    ("copied", "copied error"), ("plan_p50_ms", "plan p50, ms"), ("plan_p95_ms", "p95, ms"), ("failures", "failures"),
)
NOTES = """\
*played*: in forced cases, of which the *episodes* are those in which what is forced came about. *won* and *lost*:
layouts that the first model lost and this one won, and the other way round; *by chance*: probability that as many
differences fall at least so unevenly by themselves (McNemar, exact, two-sided). *stalls*: share of the time in which
the arms waited for a plan. *limits*: the longest by which the limits of the joints put off a plan. *map hit*: share
of plans before a contact whose landing point lies in the labelled region (label > 0.3), its interval as if plans of
an episode did not depend on each other; *map to contact*: median distance on the canvas in the head view. *imagined*
and *copied error*: mean absolute difference (of 255) to the frame 0.8 s later, on the pixels that moved; the imagined
frame has to be lower. *plan*: one plan on this machine. Episodes are laid out by evaluation seeds, which never occur
in training."""


def write_page(folder: Path, rows: Sequence[Mapping[str, Any]], pictures: Sequence[Path], meta: Record) -> Path:
    """Write `report.md` beside its pictures; returns its path."""
    seen = conditions()
    machine = seen["machine"]
    lines = [
        "# Evaluation", "",
        f"Model `{meta.get('model')}` on robot `{meta.get('robot')}`, seeds from {meta.get('seed')}, runtime "
        f"`{meta.get('runtime')}`, a plan every {meta.get('replan_s')} s; *latency* is from its observation to its "
        f"arrival. Commit {seen['commit']}, {machine['cores']} cores ({machine['processor']}), {seen['time']}.",
        "", f"    {seen['command']}", "", *_table(rows), "", NOTES, "",
    ]
    for title, wanted in (("Failures", "failure"), ("Successes", "success")):
        chosen = [path for path in pictures if f"_{wanted}" in path.stem]
        if chosen:
            lines += [f"## {title}", ""] + [f"![{path.stem}]({path.relative_to(folder)})" for path in chosen] + [""]
    page = folder / "report.md"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_text(page, "\n".join(lines))
    except OSError as error:
        raise ConfigError(str(page), "cannot be written", got=error.strerror, fix="choose another folder") from error
    return page


def _table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    shown = [(key, title) for key, title in COLUMNS if any(_text(row, key) != "-" for row in rows)]
    body = ["| " + " | ".join(_text(row, key) for key, _ in shown) + " |" for row in rows]
    return ["| " + " | ".join(title for _, title in shown) + " |", "|" + "---|" * len(shown), *body]


def _text(row: Mapping[str, Any], key: str) -> str:
    value = row.get(key)
    if key == "interval":
        return f"{row['low']:.2f} to {row['high']:.2f}"
    if key == "hit" and value is not None:
        return f"{value:.2f} ({row['hit_low']:.2f} to {row['hit_high']:.2f} of {row['hit_plans']})"
    if isinstance(value, Mapping):
        return ", ".join(f"{count} {name}" for name, count in value.items()) or "-"
    if value is None:
        return "-"
    return f"{value:.3g}" if isinstance(value, float) else str(value)
