"""One page about a recording: figures, plots and pictures in a single HTML file that needs no network and no script."""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from starry_ros.canvas.layout import t_pose_layout
from starry_ros.errors import InputError
from starry_ros.recording.figures import NOT_RUNNING, Figures, Moment, Series, ends_of, worst_moments
from starry_ros.recording.plots import Bar, Line, curves, histogram, largest, timeline
from starry_ros.recording.reader import Recording, image_of, picture_topics, value_map_of
from starry_ros.robot_spec import RobotSpec
from starry_ros.types import U8, ValueMap
from starry_ros.value.overlay import OverlayPainter, Style

STYLE = (Path(__file__).parent / "page.css").read_text(encoding="utf-8")
MAP_AGE_NS, PICTURE_AGE_NS = 1_000_000_000, 400_000_000
CHUNK_ROWS = 4
GAP_PX = 6
RESTING = " <span>while the arms were to rest</span>"


def page(recording: Recording, spec: RobotSpec, figures: Figures) -> str:
    """The HTML text."""
    moments = worst_moments(figures)
    sections = [
        _section("At a glance", _tiles(figures)),
        _section("What happened", _story(figures, moments)),
        _section("Worst moments", _moments(recording, spec, figures, moments)),
        _section("Plans in time", _plans(figures)),
        _section("Motion", _motion(figures)),
        _section("Cameras", _cameras(figures)),
        _section("Imagination and reality", _imagined(figures)),
        _section("Refusals and warnings", _refusals(figures)),
        _section("Conditions", _conditions(recording, spec)),
    ]
    title = html.escape(recording.path.stem)
    return (f'<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
            f"<title>{title}</title><style>{STYLE}</style><main><h1>Session {title}</h1>{_subtitle(recording, figures)}"
            f'{"".join(sections)}</main></html>\n')


def _subtitle(recording: Recording, figures: Figures) -> str:
    model = recording.metadata.get("model", "an unknown model")
    when = datetime.fromtimestamp(recording.start_ns / 1e9, UTC)
    text = (f"{when:%d %B %Y, %H:%M:%S} UTC · {figures.seconds:.1f} s · {len(figures.chunks)} plans by {model} · "
            f"{sum(recording.counts.values()):,} messages")
    if figures.begin_s > 1:
        text += f" · drawn from {figures.begin_s:.1f} s on, when the first plan came"
    return f'<p class="sub">{html.escape(text)}</p>'


def _section(title: str, body: str) -> str:
    return f"<section><h2>{title}</h2>{body}</section>"


def _tiles(figures: Figures) -> str:
    latency, splice = figures.latency.percentiles(), figures.splice.percentiles()
    stall, refused = max(figures.stall.value, default=0.0), figures.refused_running
    missing, jerk = max(figures.frames_missing.values(), default=0.0), max(figures.jerk_share.value, default=0.0)
    faults = sum(mode == "FAULT" for _, mode, _ in figures.modes)
    tiles = [
        ("plan age at arrival", " / ".join(_ms(latency[p]) for p in ("p50", "p95", "p99")), "ms, p50 / p95 / p99", ""),
        ("least slack", _number(min(figures.slack.value, default=None)), "s that the plan still lasted",
         "bad" if min(figures.slack.value, default=1.0) < 0 else ""),
        ("waiting for plans", f"{stall:.1%}", "of the running time", "bad" if stall > 0 else "good"),
        ("change of plan", f"{_number(splice['p95'])} / {_number(splice['max'])}", "rad at splices, p95 / largest", ""),
        ("jerk of commands", f"{jerk:.0%}", "of the limit, largest", "bad" if jerk > 1.05 else "good"),
        ("plans refused", str(refused), "while the arms ran", "bad" if refused else "good"),
        ("frames missing", f"{missing:.1%}", "of its rate, worst camera", "bad" if missing > 0.01 else "good"),
        ("faults", str(faults), "latched stops", "bad" if faults else "good"),
        ("messages lost", "-" if figures.lost is None else str(figures.lost),
         f"of {figures.counted:,} counted by their senders" if figures.counted else "senders did not count",
         "bad" if figures.lost else "good"),
        ("control ticks late", f"{figures.missed_ticks / max(1, figures.ticks):.1%}", f"of {figures.ticks:,}",
         "bad" if figures.missed_ticks > 0.01 * figures.ticks else "good"),
    ]
    return '<div class="tiles">' + "".join(
        f'<div class="tile {kind}"><b>{name}</b><strong>{value}</strong><span>{unit}</span></div>'
        for name, value, unit, kind in tiles
    ) + "</div>"


def _story(figures: Figures, moments: Sequence[Moment]) -> str:
    seconds, rows = figures.seconds, ["mode", "sentence", *(["plans"] + [""] * (CHUNK_ROWS - 1))]
    bars = []
    for (at_s, mode, reason), end_s in zip(figures.modes, ends_of(figures.modes, seconds), strict=True):
        bars.append(Bar(at_s, end_s, 0, f"mode {mode.lower()}", f"{mode} {reason}, {at_s:.1f} to {end_s:.1f} s"))
    for index, ((at_s, text), end_s) in enumerate(
        zip(figures.sentences, ends_of(figures.sentences, seconds), strict=True)
    ):
        bars.append(Bar(at_s, end_s, 1, f"sentence {'ab'[index % 2]}", text))
    for index, (chunk, at_s) in enumerate(zip(figures.chunks, figures.arrival_s, strict=True)):
        begin = at_s + (chunk.start_ns - chunk.observation_ns) / 1e9 - figures.latency.value[index]
        until = begin + (chunk.end_ns - chunk.start_ns) / 1e9
        later = figures.arrival_s[index + 1] if index + 1 < len(figures.chunks) else until
        row = 2 + index % CHUNK_ROWS
        name = f"chunk {chunk.chunk_id}, epoch {chunk.epoch}"
        bars += [
            Bar(begin, max(begin, at_s), row, "chunk late", f"{name}: past when it came"),
            Bar(max(begin, at_s), min(later, until), row, "chunk used", f"{name}: followed"),
            Bar(min(later, until), until, row, "chunk dropped", f"{name}: replaced by the next"),
        ]
    sentences = "".join(f"<li><b>{at_s:.1f} s</b> {html.escape(text)}</li>" for at_s, text in figures.sentences)
    modes = dict.fromkeys(mode for _, mode, _ in figures.modes)
    legend = _legend(*((f"mode {mode.lower()}", mode) for mode in modes))
    legend += _legend(("chunk late", "plan: past when it came"), ("chunk used", "followed"),
                      ("chunk dropped", "replaced by the next"))
    shown = [bar for bar in bars if bar.end > bar.begin]
    return timeline(shown, rows, _span(figures)) + legend + f'<ol class="said">{sentences}</ol>'


def _span(figures: Figures) -> tuple[float, float]:
    return figures.begin_s, figures.seconds


def _plans(figures: Figures) -> str:
    milliseconds = [1000 * v for v in figures.latency.value]
    return (
        _plot("Slack and age of the plan being followed, s", curves([
            Line("slack", figures.slack.at_s, figures.slack.value), Line("age", figures.chunk_age.at_s,
                                                                       figures.chunk_age.value, "b")], _span(figures)),
              _legend(("line-a", "slack: how long the plan still lasts"), ("line-b", "age of its observation")))
        + _plot("Age of plans at arrival, ms", histogram(milliseconds, "ms"))
        + _plot("Time from plan to plan, s", histogram(figures.interval.value, "s"))
        + _table(("", "p50", "p95", "p99", "max"), [
            ("age at arrival, ms", figures.latency), ("from plan to plan, ms", figures.interval),
            ("age while followed, ms", figures.chunk_age), ("tick jitter p99, ms", figures.jitter),
        ])
    )


def _motion(figures: Figures) -> str:
    joints = sorted(figures.jerk_joint)
    rows = "".join(
        f"<tr><td>{html.escape(name)}</td>{_share(figures.jerk_joint[name])}"
        f"{_share(figures.limit_share.get(name, 0.0))}</tr>" for name in joints
    )
    head = "<tr><th>joint</th><th>largest jerk, of its limit</th><th>ticks in which a limit shaped the plan</th></tr>"
    table = f"<table>{head}{rows}</table>" if rows else ""
    return (
        _plot("Change of plan at each splice, rad (the command itself never jumps)",
              curves([Line("splice", figures.splice.at_s, figures.splice.value)], _span(figures)))
        + _plot("Largest jerk of commands in every 0.2 s, share of the joint's limit",
                curves([Line("jerk", *largest(figures.jerk_share.at_s, figures.jerk_share.value, 0.2), "b")],
                       _span(figures)))
        + table
    )


def _cameras(figures: Figures) -> str:
    skew = [value for values in figures.skew_ms.values() for value in values]
    rows = "".join(
        f"<tr><td>{html.escape(name)}</td><td>{count}</td><td>{figures.frames_missing.get(name, 0.0):.2%}</td>"
        f"<td>{_number(Series(value=figures.skew_ms.get(name, [])).percentiles()['p95'])}</td></tr>"
        for name, count in figures.frames.items()
    )
    head = "<tr><th>camera</th><th>frames</th><th>missing of its own rate</th><th>skew p95, ms</th></tr>"
    return (f"<table>{head}{rows}</table>"
            + _plot("Skew of views on one canvas, ms", histogram(skew, "ms", kind="b")))


def _imagined(figures: Figures) -> str:
    if not figures.imagined_apart.value and not figures.surprise.value:
        return '<p class="none">nothing imagined was recorded: start world_action with publish_imagined</p>'
    lines = [Line("apart", figures.imagined_apart.at_s, figures.imagined_apart.value),
             Line("surprise", figures.surprise.at_s, figures.surprise.value, "b")]
    return _plot("Imagined canvas against the one that came, mean difference in grey levels of 255",
                 curves([line for line in lines if len(line.value)], _span(figures)))


def _refusals(figures: Figures) -> str:
    refused = "".join(
        f"<li>{html.escape(reason)}: {count}{RESTING if reason in NOT_RUNNING else ''}</li>"
        for reason, count in figures.refused.items()
    )
    spoken = "".join(f"<li>{html.escape(text)} <span>for {count} s</span></li>"
                     for text, count in figures.diagnosed.most_common(20))
    counts = (f"<p>{figures.gate_interventions} commands stopped for breaking a limit; {figures.missed_ticks} of "
              f"{figures.ticks} control ticks late.</p>")
    return (counts + f"<h3>Plans refused</h3><ul>{refused or '<li>none</li>'}</ul>"
            + f"<h3>Warnings and errors of nodes</h3><ul>{spoken or '<li>none</li>'}</ul>")


def _conditions(recording: Recording, spec: RobotSpec) -> str:
    hashes = {k.removeprefix("sha256."): v for k, v in recording.metadata.items() if k.startswith("sha256.")}
    rows = {"robot": spec.name, "contract": spec.content_hash, "file": str(recording.path.name)}
    rows |= {k: v for k, v in recording.metadata.items() if k not in ("conditions", "robot", "contract_hash")
             and not k.startswith("sha256.")}
    rows |= {key: _plain(value) for key, value in json.loads(recording.metadata.get("conditions", "{}")).items()
             if value is not None}
    digests = f"<details><summary>SHA-256 of the model's {len(hashes)} files</summary>{_pairs(hashes)}</details>"
    return _pairs(rows) + (digests if hashes else "")


def _pairs(rows: Mapping[str, str]) -> str:
    return "<table>" + "".join(
        f"<tr><td>{html.escape(key)}</td><td><code>{html.escape(str(value))}</code></td></tr>"
        for key, value in rows.items()
    ) + "</table>"


def _plain(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {part}" for key, part in value.items() if part is not None)
    return str(value)


# Pictures of moments


def _moments(recording: Recording, spec: RobotSpec, figures: Figures, moments: Sequence[Moment]) -> str:
    cards = []
    for moment in moments:
        picture = moment_picture(recording, spec, recording.start_ns + round(moment.at_s * 1e9))
        image = f'<img alt="cameras at {moment.at_s:.1f} s" src="{_jpeg(picture)}">' if picture is not None else ""
        said = [text for at_s, text in figures.sentences if at_s <= moment.at_s][-1:]
        more = f" <span>{html.escape(said[0])}</span>" if said else ""
        cards.append(f"<figure>{image}<figcaption><b>{moment.at_s:.1f} s</b> {html.escape(moment.why)}{more}"
                     "</figcaption></figure>")
    return f'<div class="moments">{"".join(cards)}</div>' if cards else '<p class="none">none stands out</p>'


def moment_picture(recording: Recording, spec: RobotSpec, at_ns: int) -> U8 | None:
    """All cameras side by side just before an instant, with the value map in force; None without pictures."""
    value_map: ValueMap | None = None
    for heard in recording.messages("value_map", start_ns=at_ns - MAP_AGE_NS, end_ns=at_ns):
        value_map = value_map_of(heard.message)
    views: dict[str, U8] = {}
    topics = picture_topics(spec, recording.has)
    for heard in recording.messages(*topics, start_ns=at_ns - PICTURE_AGE_NS, end_ns=at_ns + PICTURE_AGE_NS // 8):
        views[topics[heard.topic].name] = image_of(heard.topic, heard.message)
    layout = t_pose_layout(spec)
    painter = OverlayPainter(layout, value_map.stride_px if value_map else 4, style=Style())
    try:
        shown = [painter.paint(camera.name, views[camera.name], value_map) for camera in spec.cameras
                 if camera.name in views]
    except InputError:
        shown = list(views.values())
    if not shown:
        return None
    height = shown[0].shape[0]
    gap = np.full((height, GAP_PX, 3), 255, np.uint8)
    parts: list[U8] = []
    for view in shown:
        size = (round(view.shape[1] * height / view.shape[0]), height)
        parts += [gap, np.asarray(cv2.resize(view, size), np.uint8)]
    return np.concatenate(parts[1:], axis=1)


def _jpeg(picture_HWC: U8) -> str:
    done, data = cv2.imencode(".jpg", picture_HWC[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 80])
    return "data:image/jpeg;base64," + base64.b64encode(data.tobytes()).decode() if done else ""


# Small parts


def _plot(title: str, svg: str, legend: str = "") -> str:
    return f"<h3>{title}</h3>{svg}{legend}"


def _legend(*entries: tuple[str, str]) -> str:
    items = "".join(f'<i class="{kind}"></i>{html.escape(text)} ' for kind, text in entries)
    return f'<p class="legend">{items}</p>'


def _table(head: Sequence[str], rows: Sequence[tuple[str, Series]]) -> str:
    top = "".join(f"<th>{name}</th>" for name in head)
    body = "".join(
        f"<tr><td>{name}</td>" + "".join(f"<td>{_ms(v)}</td>" for v in _values(series.percentiles())) + "</tr>"
        for name, series in rows
    )
    return f"<table><tr>{top}</tr>{body}</table>"


def _values(found: Mapping[str, Any]) -> list[Any]:
    return [found[key] for key in ("p50", "p95", "p99", "max")]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def _ms(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{1000 * value:.0f}" if value >= 0.1 else f"{1000 * value:.1f}"


def _share(value: float) -> str:
    """A table cell with a bar as long as the share."""
    return f'<td class="share" style="--share:{min(1.0, value):.3f}">{value:.0%}</td>'
