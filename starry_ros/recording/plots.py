"""Small plots as inline SVG, for pages that must work without network. Colours come from the page's style sheet."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

WIDTH, HEIGHT = 760, 150
LEFT, RIGHT, TOP, BOTTOM = 64, 10, 8, 24
UNIT_PX = 30
GAP_S = 1.0
MOST_POINTS = 900


@dataclass(frozen=True)
class Line:
    """One curve: its name, its samples, and the CSS class that colours it."""

    name: str
    at: Sequence[float]
    value: Sequence[float]
    kind: str = "a"


@dataclass(frozen=True)
class Bar:
    """A horizontal bar on a timeline: from, to, row, CSS class and tooltip."""

    begin: float
    end: float
    row: int
    kind: str
    text: str = ""


class Axes:
    """Maps data to pixels and draws the frame."""

    def __init__(self, x: tuple[float, float], y: tuple[float, float], height: int = HEIGHT) -> None:
        self.x, self.y, self.height = x, _padded(y), height

    def px(self, x: float) -> float:
        """Column of a value."""
        return LEFT + (x - self.x[0]) / ((self.x[1] - self.x[0]) or 1) * (WIDTH - LEFT - RIGHT)

    def py(self, y: float) -> float:
        """Row of a value."""
        return self.height - BOTTOM - (y - self.y[0]) / ((self.y[1] - self.y[0]) or 1) * (self.height - TOP - BOTTOM)

    def frame(self, unit_x: str, *, with_y: bool = True) -> str:
        """Grid lines and figures."""
        parts = []
        for tick in ticks(*self.x, 8):
            x = self.px(tick)
            parts.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{self.height - BOTTOM}"/>')
            if x < WIDTH - RIGHT - UNIT_PX:
                parts.append(f'<text x="{x:.1f}" y="{self.height - 8}" text-anchor="middle">{tick:g}</text>')
        for tick in ticks(*self.y, 4) if with_y else []:
            y = self.py(tick)
            parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
            parts.append(f'<text x="{LEFT - 6}" y="{y + 3.5:.1f}" text-anchor="end">{tick:g}</text>')
        parts.append(f'<text x="{WIDTH - RIGHT}" y="{self.height - 8}" text-anchor="end" class="unit">{unit_x}</text>')
        return "".join(parts)


def curves(lines: Sequence[Line], span_s: tuple[float, float], zero: bool = True, marks: Sequence[float] = ()) -> str:
    """Curves over time, broken where nothing was for long. `zero` keeps 0 in view; `marks` are vertical lines."""
    values = [v for line in lines for v in line.value if math.isfinite(v)]
    if not values:
        return '<p class="none">nothing was recorded</p>'
    low, high = min(values), max(values)
    axes = Axes(span_s, (min(low, 0.0) if zero else low, max(high, 0.0) if zero else high))
    body = [axes.frame("s")]
    body += [f'<line class="mark" x1="{axes.px(m):.1f}" x2="{axes.px(m):.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>'
             for m in marks]
    for line in lines:
        for at, value in stretches(*thinned(np.asarray(line.at, float), np.asarray(line.value, float))):
            points = " ".join(f"{axes.px(x):.1f},{axes.py(y):.1f}" for x, y in zip(at, value, strict=True))
            body.append(f'<polyline class="line {line.kind}" points="{points}"/>')
    return _svg(body, HEIGHT)


def histogram(values: Sequence[float], unit: str, bins: int = 30, kind: str = "a") -> str:
    """How often which value occurs."""
    finite = [v for v in values if math.isfinite(v)]
    if not finite:
        return '<p class="none">nothing was recorded</p>'
    if min(finite) == max(finite):
        return f'<p class="none">{finite[0]:.3g} {unit}, each of {len(finite)} times</p>'
    low, high = min(0.0, *finite), max(finite) or 1.0
    counts, edges = np.histogram(finite, bins=bins, range=(low, high if high > low else low + 1))
    axes = Axes((float(edges[0]), float(edges[-1])), (0.0, float(counts.max())))
    body = [axes.frame(unit)]
    for count, left, right in zip(counts, edges[:-1], edges[1:], strict=True):
        if count:
            x, y = axes.px(float(left)), axes.py(float(count))
            wide, high, text = axes.px(float(right)) - x - 1, HEIGHT - BOTTOM - y, f"{left:.3g} to {right:.3g} {unit}"
            place = f'x="{x + 0.5:.1f}" y="{y:.1f}" width="{wide:.1f}" height="{high:.1f}"'
            body.append(f'<rect class="bar {kind}" {place}><title>{count} of {len(finite)}: {text}</title></rect>')
    return _svg(body, HEIGHT)


def timeline(bars: Sequence[Bar], rows: Sequence[str], span_s: tuple[float, float]) -> str:
    """Bars in named rows over time; what was before is cut off."""
    bars = [replace(bar, begin=max(bar.begin, span_s[0])) for bar in bars if bar.end > span_s[0]]
    if not bars:
        return '<p class="none">nothing was recorded</p>'
    step = 22 if len(rows) < 8 else 12
    height = TOP + BOTTOM + step * len(rows)
    axes = Axes(span_s, (0.0, 1.0), height)
    body = [axes.frame("s", with_y=False)]
    for index, name in enumerate(rows):
        y = TOP + step * (index + 0.5) + 3.5
        body.append(f'<text x="{LEFT - 6}" y="{y:.1f}" text-anchor="end">{html.escape(name)}</text>')
    for bar in bars:
        x = axes.px(bar.begin)
        body.append(f'<rect class="{bar.kind}" x="{x:.1f}" y="{TOP + step * bar.row + 2:.1f}" '
                    f'width="{max(1.0, axes.px(min(bar.end, span_s[1])) - x):.1f}" height="{step - 4}" rx="2">'
                    f"<title>{html.escape(bar.text)}</title></rect>")
    return _svg(body, height)


def ticks(low: float, high: float, count: int) -> list[float]:
    """Round numbers within an interval, about `count` of them."""
    if not high > low:
        return [low]
    raw = (high - low) / max(1, count)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw)
    first = math.ceil(low / step - 1e-9)
    return [round(k * step, 10) for k in range(first, math.floor(high / step + 1e-9) + 1)]


def largest(at: Sequence[float], value: Sequence[float], every_s: float) -> tuple[list[float], list[float]]:
    """The largest value of every stretch of `every_s`, at its middle: the envelope of what changes faster."""
    found: dict[int, float] = {}
    for x, y in zip(at, value, strict=True):
        stretch = math.floor(x / every_s)
        found[stretch] = max(y, found.get(stretch, y))
    return [(k + 0.5) * every_s for k in sorted(found)], [found[k] for k in sorted(found)]


def stretches(at: np.ndarray, value: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Parts between gaps of more than GAP_S and of five times the usual step."""
    steps = np.diff(at)
    usual = float(np.median(steps)) if len(steps) else 0.0
    breaks = np.flatnonzero(steps > max(GAP_S, 5 * usual)) + 1
    return list(zip(np.split(at, breaks), np.split(value, breaks), strict=True))


def thinned(at: np.ndarray, value: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """At most about MOST_POINTS samples that keep the extremes of every stretch; gaps in time stay."""
    if len(at) <= MOST_POINTS:
        return at, value
    parts = np.array_split(np.arange(len(at)), MOST_POINTS // 2)
    keep = sorted({int(part[pick(value[part])]) for part in parts for pick in (np.argmin, np.argmax)})
    return at[keep], value[keep]


def _padded(y: tuple[float, float]) -> tuple[float, float]:
    low, high = y
    room = 0.06 * (high - low) or abs(high) * 0.1 or 1.0
    return (low - room if low < 0 else low, high + room)


def _svg(body: Sequence[str], height: int) -> str:
    return f'<svg viewBox="0 0 {WIDTH} {height}" role="img">{"".join(body)}</svg>'
