"""The screen of the browser view: which panels show what, and where.

Entity paths are those of `view_sink.ViewSink`.
"""

from __future__ import annotations

from typing import Any

import rerun.blueprint as rrb

from starry_ros.recording.view_plans import TOP_S, UNITS_A_S, VIEW_BEGIN_S, VIEW_END_S, VIEW_ROWS
from starry_ros.robot_spec import ArmSpec, RobotSpec

LIVE_S = 12.0
DARK_RGB = (22, 24, 28)


def short(arm: ArmSpec, joint: str) -> str:
    """A joint's name without the arm's before it."""
    return joint.removeprefix(f"{arm.name}_")


def blueprint(spec: RobotSpec, *, live: bool, follow: bool = False) -> Any:
    """The layout. Live, and with `follow`, it shows the newest moment and plots the last seconds; else it loops."""
    newest = live or follow
    begin, now = (rrb.TimeRangeBoundary.cursor_relative(seconds=s) for s in (-LIVE_S, 0.0))
    shown = [rrb.VisibleTimeRange("time", start=begin, end=now)] if live else None
    return rrb.Blueprint(
        rrb.Vertical(_pictures(spec), _plans(spec, shown), _plots(spec, shown), row_shares=[1.12, 0.88, 1.2]),
        rrb.TimePanel(state="collapsed", timeline="time", play_state="following" if newest else "playing",
                      loop_mode="off" if newest else "all"),
        rrb.BlueprintPanel(state="hidden"), rrb.SelectionPanel(state="hidden"),
    )


def _pictures(spec: RobotSpec) -> Any:
    """The first camera large, the others stacked, then canvas and imagination."""
    first, *others = [_picture(f"cameras/{camera.name}", camera.name.replace("_", " ")) for camera in spec.cameras]
    stacked = [rrb.Vertical(*others)] if others else []
    shares = [1.3, *([0.68] if others else []), 0.78, 2.3]
    return rrb.Horizontal(
        first, *stacked, _picture("canvas", "canvas"),
        _picture("imagined", "Imagined for now, what came, and their difference"), column_shares=shares,
    )


def _picture(origin: str, name: str) -> Any:
    return rrb.Spatial2DView(origin=origin, name=name, background=DARK_RGB)


def _plans(spec: RobotSpec, shown: Any) -> Any:
    bounds = rrb.VisualBounds2D(x_range=[UNITS_A_S * VIEW_BEGIN_S, UNITS_A_S * VIEW_END_S], y_range=[TOP_S, VIEW_ROWS])
    states = rrb.StateTimelineView(origin="states", name="Mode, model and sentence", time_ranges=shown)
    return rrb.Horizontal(
        _space(spec),
        rrb.Spatial2DView(origin="chunks", name="Plans in time: red came too late, blue followed, grey replaced",
                          visual_bounds=bounds, background=DARK_RGB),
        rrb.Tabs(states, _log()),
        column_shares=[1.0, 1.55, 1.45],
    )


def _space(spec: RobotSpec) -> Any:
    """Both arms and their plans, from in front of the robot and above."""
    (x0, x1), (y0, y1), (z0, z1) = (spec.workspace_m[axis] for axis in "xyz")
    middle, size = ((x0 + x1) / 2, (y0 + y1) / 2, (z0 + z1) / 2), max(x1 - x0, y1 - y0, z1 - z0)
    eye = rrb.EyeControls3D(
        kind=rrb.Eye3DKind.Orbital, look_target=(middle[0] - 0.12 * size, middle[1], z0 + 0.2 * size),
        position=(middle[0] + 0.62 * size, middle[1] - 0.38 * size, z0 + 0.62 * size), eye_up=(0.0, 0.0, 1.0),
    )
    return rrb.Spatial3DView(origin="world", name="Arms, plans and workspace", eye_controls=eye, background=DARK_RGB)


def _log() -> Any:
    columns = rrb.TextLogColumns(text_log_columns=["LogLevel", "Body"], timeline_columns=["time"])
    return rrb.TextLogView(origin="log", name="Log", columns=columns)


def _plots(spec: RobotSpec, shown: Any) -> Any:
    def plot(origin: str, name: str, **more: Any) -> Any:
        return rrb.TimeSeriesView(origin=origin, name=name, time_ranges=shown, **more)

    corner = rrb.PlotLegend(rrb.Corner2D.LeftTop)
    arms = []
    for arm in spec.arms:
        whole = plot(f"range/{arm.name}", f"{arm.name} arm, % of each range", axis_y=rrb.ScalarAxis(range=(-5, 105)),
                     plot_legend=corner)
        singles = [plot(f"joints/{arm.name}/{joint.name}", short(arm, joint.name), plot_legend=corner)
                   for joint in arm.joints]
        arms.append(rrb.Tabs(whole, *singles))
    return rrb.Horizontal(
        *arms, plot("plots/latency", "Age and slack of plans, ms", plot_legend=corner),
        rrb.Tabs(plot("plots/surprise", "Surprise", plot_legend=corner), plot("plots/splice", "Change of plan, rad"),
                 plot("plots/limits", "Limits"), plot("plots/executor", "Executor")),
        column_shares=[1.2, 1.2, 1, 1],
    )
