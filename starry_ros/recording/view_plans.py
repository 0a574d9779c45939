"""Plans around now as bars: what was past when it came, what was followed, what the next plan replaced.

Shapes: N bars. A unit of the drawing is a row high; UNITS_A_S units are a second.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any

import numpy as np
import rerun as rr

from starry_ros.types import ActionChunk

ROWS = 7
HALF_BAR = 0.3
UNITS_A_S = 4.6
VIEW_BEGIN_S, VIEW_END_S = -2.6, 2.1
TOP_S, VIEW_ROWS = -1.1, ROWS + 0.3
NS = 1e9
LATE_RGB, USED_RGB, DROPPED_RGB = (214, 72, 58), (63, 136, 214), (74, 86, 104)
NOW_RGB, TICK_RGB, INK_RGB = (245, 246, 248), (58, 63, 72), (168, 176, 188)


@dataclass(frozen=True)
class Arrived:
    """A plan and when it came."""

    chunk: ActionChunk
    at_ns: int


class PlanBars:
    """The last plans, newest below, moved along with now."""

    def __init__(self) -> None:
        self._arrived: deque[Arrived] = deque(maxlen=ROWS)

    @property
    def newest(self) -> ActionChunk | None:
        """The last plan that came."""
        return self._arrived[-1].chunk if self._arrived else None

    def add(self, chunk: ActionChunk, at_ns: int) -> None:
        """A plan came."""
        self._arrived.append(Arrived(chunk, at_ns))

    def log(self, now_ns: int, path: str) -> None:
        """Draw under this entity path."""
        bars = [bar for row in range(len(self._arrived)) for bar in self._bars_of(row)]
        lines = [_line(self._x(begin_ns, now_ns), self._x(end_ns, now_ns), row) for begin_ns, end_ns, row, _ in bars]
        rr.log(f"{path}/bars", rr.LineStrips2D(lines, colors=[rgb for *_, rgb in bars], radii=HALF_BAR))
        names = [f"{arrived.chunk.chunk_id}" for arrived in self._arrived]
        at = [[self._x(arrived.at_ns, now_ns), row + 0.5] for row, arrived in enumerate(self._arrived)]
        rr.log(f"{path}/came", rr.Points2D(at, labels=names, colors=[NOW_RGB] * len(at), show_labels=True,
                                           radii=rr.Radius.ui_points(2.5)))

    def _bars_of(self, row: int) -> list[tuple[int, int, int, tuple[int, int, int]]]:
        """(begin, end, row, colour) of one plan's parts."""
        arrived = self._arrived[row]
        chunk, came_ns = arrived.chunk, arrived.at_ns
        later_ns = self._arrived[row + 1].at_ns if row + 1 < len(self._arrived) else chunk.end_ns
        spans = ((chunk.start_ns, came_ns, LATE_RGB), (max(came_ns, chunk.start_ns), later_ns, USED_RGB),
                 (later_ns, chunk.end_ns, DROPPED_RGB))
        return [(begin_ns, end_ns, row, rgb) for begin_ns, end_ns, rgb in spans if end_ns > begin_ns]

    @staticmethod
    def _x(at_ns: int, now_ns: int) -> float:
        return UNITS_A_S * (at_ns - now_ns) / NS


def _line(begin: float, end: float, row: int) -> Any:
    """The middle line of a bar, whose round ends reach from `begin` to `end`."""
    inset = min(HALF_BAR, (end - begin) / 2)
    return [[begin + inset, row + 0.5], [end - inset, row + 0.5]]


def log_axes(path: str) -> None:
    """Now, and ticks at every half second with their times, once and for all."""
    seconds = np.arange(np.ceil(2 * VIEW_BEGIN_S), np.floor(2 * VIEW_END_S) + 1) / 2
    lines: list[Any] = [[[UNITS_A_S * s, -0.3], [UNITS_A_S * s, float(ROWS)]] for s in seconds]
    now = [s == 0 for s in seconds]
    rr.log(f"{path}/ticks", rr.LineStrips2D(lines, colors=[NOW_RGB if n else TICK_RGB for n in now],
                                            radii=[rr.Radius.ui_points(1.2 if n else 0.5) for n in now],
                                            draw_order=-10.0), static=True)
    whole = [s for s in seconds if s == int(s)]
    rr.log(f"{path}/times", rr.Points2D(
        [[UNITS_A_S * s, -0.55] for s in whole], labels=["now" if s == 0 else f"{s:+.0f} s" for s in whole],
        colors=[INK_RGB] * len(whole), radii=rr.Radius.ui_points(0.5), show_labels=True), static=True)
