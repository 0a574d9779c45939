"""How late a loop with the executor in it is, against a bare one that takes turns with it in the same run.

Both keep an absolute schedule from the beginning of a window on: a tick that takes too long makes those that follow
late, and each period that passed without a call counts with the lateness of the call that came at last.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from starry_ros.bench.rehearsal import Rehearsal
from starry_ros.timing import seconds

WINDOW_S = 0.5


def window(period_ns: int, ticks: int, work: Callable[[int], None]) -> list[float]:
    """Lateness in s of every period of one window; `work` is called with the time, once however late it is."""
    due_ns, late_s = time.monotonic_ns() + period_ns, list[float]()
    while len(late_s) < ticks:
        time.sleep(max(0.0, seconds(due_ns - time.monotonic_ns())))
        now_ns = time.monotonic_ns()
        while due_ns <= now_ns and len(late_s) < ticks:
            late_s.append(seconds(now_ns - due_ns))
            due_ns += period_ns
        work(now_ns)
    return late_s


def turns(rehearsal: Rehearsal, period_ns: int, duration_s: float) -> tuple[list[float], list[float]]:
    """Lateness with the executor and without, for `duration_s` each, in turns of WINDOW_S."""
    ours_s, bare_s = list[float](), list[float]()
    ticks = max(1, round(WINDOW_S / seconds(period_ns)))
    for _ in range(max(1, round(duration_s / WINDOW_S))):
        offset_ns = rehearsal.now_ns - time.monotonic_ns()
        ours_s += window(period_ns, ticks, lambda now_ns, offset_ns=offset_ns: rehearsal.tick(  # type: ignore[misc]
            now_ns + offset_ns))
        bare_s += window(period_ns, ticks, lambda _: None)
    return ours_s, bare_s
