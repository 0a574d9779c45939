"""What episodes of one policy come to: a row of `starry eval`."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from starry_ros.report import evaluation_row, wilson
from starry_ros.sim.choices import COLOURS
from starry_ros.sim.loop import EpisodeResult
from starry_ros.training.measure import Quality
from starry_ros.types import Record

SAME = ("policy", "task", "setting", "case", "mode", "latency_s")
"""What two rows must have in common to be compared."""


@dataclass(frozen=True)
class Score:
    """What one episode gave. Frames are kept for failures and a few successes."""

    policy: str
    result: EpisodeResult
    quality: Quality


def row(policy: str, scores: Sequence[Score]) -> Record:
    """The row of one policy, task, setting and case: over the episodes in which what the case forces came about.

    `played` and `unforced_successes` say what the others were; both are None in the case that forces nothing.
    """
    first = scores[0].result.case
    counted = [score for score in scores if score.result.forced]
    results = [score.result for score in counted]
    won = [result for result in results if result.success]
    unforced = [score.result.success for score in scores if not score.result.forced]
    plan_ms = 1e3 * np.array([time_s for result in results for time_s in result.plan_s[1:]])
    failures = Counter(result.failure for result in results if not result.success)
    refused = sum((Counter(result.refused) for result in results), Counter[str]())
    forced = first.kind != "normal"
    return evaluation_row(
        policy, first.task, first.setting, len(won), len(results), case=first.kind,
        played=len(scores) if forced else None, unforced_successes=sum(unforced) if forced else None,
        by_colour=_by_colour(results), **{colour: _share(results, colour) for colour in COLOURS},
        mean_s=_mean([result.duration_s for result in won]), stall=_mean([r.stall_share for r in results]),
        worst_delay_s=max((r.delay_s for r in results), default=None),
        **_hits([hit for score in counted for hit in score.quality.hits]),
        landing_px=_median([e for score in counted for e in score.quality.landing_px]),
        imagined=_mean([e for score in counted for e in score.quality.imagined]),
        copied=_mean([e for score in counted for e in score.quality.copied]),
        plan_p50_ms=_percentile(plan_ms, 50), plan_p95_ms=_percentile(plan_ms, 95),
        failures=dict(failures), refused=dict(refused),
        failed_seeds=[result.case.seed for result in results if not result.success],
    )


def compared(rows: Sequence[Record]) -> list[Record]:
    """Rows of several models, each with how many layouts it won and lost against the first one, which played the same
    ones, and how likely chance alone would set them so far apart (McNemar's test, exact and two-sided). None in the
    first model's rows, and where what is forced chooses the episodes that count.
    """
    first: dict[tuple[object, ...], Record] = {}
    found = []
    for each in rows:
        other = first.setdefault(tuple(each.get(name) for name in SAME), each)
        failed, before = set(each["failed_seeds"]), set(other["failed_seeds"])
        won, lost = len(before - failed), len(failed - before)
        known = other is not each and each["played"] is None
        found.append({**each, "won": won if known else None, "lost": lost if known else None,
                      "by_chance": by_chance(won, lost) if known else None})
    return found


def by_chance(won: int, lost: int) -> float:
    """Probability that fair coins in place of `won` + `lost` differences fall at least so far to one side."""
    flips, fewer = won + lost, min(won, lost)
    return float(min(1.0, 2 * sum(math.comb(flips, heads) for heads in range(fewer + 1)) / 2**flips))


def _hits(hits: Sequence[float]) -> Record:
    """Share of plans that land in the labelled region, its interval as if plans were independent, and their number."""
    low, high = wilson(round(sum(hits)), len(hits))
    return {"hit": _mean(hits), "hit_low": low, "hit_high": high, "hit_plans": len(hits)}


def _by_colour(results: Sequence[EpisodeResult]) -> dict[str, Record]:
    table = {}
    for colour in COLOURS:
        asked = [result for result in results if result.colour == colour]
        successes = sum(result.success for result in asked)
        low, high = wilson(successes, len(asked))
        table[colour] = {"episodes": len(asked), "success": _share(results, colour), "low": low, "high": high}
    return table


def _share(results: Sequence[EpisodeResult], colour: str) -> float | None:
    return _mean([float(result.success) for result in results if result.colour == colour])


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if len(values) else None


def _median(values: Sequence[float]) -> float | None:
    return float(np.median(values)) if len(values) else None


def _percentile(values: np.ndarray, percent: float) -> float | None:
    return float(np.percentile(values, percent)) if len(values) else None
