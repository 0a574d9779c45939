"""Quality of service by kind of topic.

| profile | reliability | durability | depth | for |
|---|---|---|---|---|
| SENSOR | best effort | volatile | 5 | camera images and their calibration, canvas, overlays |
| NEWEST | best effort | volatile | 1 | subscribers of images that only want the newest |
| STATE | reliable | volatile | 10 | joint states, status, ground truth, diagnostics |
| PLAN | reliable | volatile | 4 | chunks, value maps |
| COMMAND | reliable | volatile | 2 | trajectories: never latched, so a restarted controller replays nothing |
| SAFETY | reliable | volatile | 10 | emergency stop and heartbeat |
| LATCHED | reliable | transient local | 1 | sentence in force, status that late joiners need |
| CLOCK | reliable | volatile | 100 | simulated time: who only wants the newest asks for best effort |
"""

from __future__ import annotations

from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy


def _profile(depth: int, *, reliable: bool, latched: bool = False) -> QoSProfile:
    return QoSProfile(
        history=HistoryPolicy.KEEP_LAST,
        depth=depth,
        reliability=ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT,
        durability=DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE,
    )


SENSOR = _profile(5, reliable=False)
NEWEST = _profile(1, reliable=False)
STATE = _profile(10, reliable=True)
PLAN = _profile(4, reliable=True)
COMMAND = _profile(2, reliable=True)
SAFETY = _profile(10, reliable=True)
LATCHED = _profile(1, reliable=True, latched=True)
CLOCK = _profile(100, reliable=True)
