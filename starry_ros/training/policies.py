"""From a session to a policy of the closed loop: one that gives the model all that it wants to see."""

from __future__ import annotations

from starry_ros.sim.cell import Cell
from starry_ros.sim.choices import LoopConfig
from starry_ros.training.planner_policy import PlannerPolicy
from starry_ros.training.scene_policy import ScenePolicy
from starry_ros.wam.session import Session


def policy_of(session: Session, cell: Cell, loop: LoopConfig) -> PlannerPolicy:
    """A planner in the mode of `loop`; where the model needs depth, paths or a scene, one that looks at the cell."""
    return ScenePolicy(session, cell, loop) if session.runtime.config.needs_scene else PlannerPolicy(session, loop)
