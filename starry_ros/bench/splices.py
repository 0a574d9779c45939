"""Random plans against a moving executor: does any splice make the command jump?

A third of the plans arrives late, a tenth out of order. The position is compared at the moment of the splice itself,
the velocity over the tick that follows. Shapes: J joints, K steps of a chunk.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from starry_ros.control.executor import Executor
from starry_ros.control.limits import Limits
from starry_ros.control.splice import Splicer
from starry_ros.errors import StarryError
from starry_ros.report import bench_row
from starry_ros.robot_spec import NO_KINEMATICS, KinematicsSpec, RobotSpec
from starry_ros.timing import NS_PER_S, nanoseconds
from starry_ros.types import F64, ActionChunk, Record, RobotState


class Watched(Splicer):
    """A splicer that compares the beginning of every curve it makes with the motion that it was given."""

    worst_jump = 0.0

    def splice(self, motion_3J: F64, time_s_K: F64, position_KJ: F64, slower: float = 1.0):  # type: ignore[no-untyped-def]
        """As `Splicer.splice`."""
        found = super().splice(motion_3J, time_s_K, position_KJ, slower)
        if found is not None:
            self.worst_jump = max(self.worst_jump, float(np.abs(found.curve.at(0.0)[0] - motion_3J[0]).max()))
        return found


def rows(robot: RobotSpec, splices: int, seed: int = 0) -> list[Record]:
    """`control/splice_position` in rad and `control/splice_velocity` in ticks of the acceleration limit."""
    spec, rng = replace(robot, kinematics=KinematicsSpec(NO_KINEMATICS, "")), np.random.default_rng(seed)
    executor, watched = Executor(spec), Watched(Limits.of(spec))
    executor._splicer = watched
    period_ns = round(NS_PER_S / spec.rates.control_hz)
    step_J = spec.limit("acceleration") / spec.rates.control_hz
    lower_J, upper_J = spec.limit("lower"), spec.limit("upper")
    now_ns, position_J, velocity_J = NS_PER_S, spec.limit("home"), np.zeros(len(lower_J))
    executor.step(now_ns, RobotState(now_ns, position_J, velocity_J))
    if not executor.arm(now_ns).ok:
        raise StarryError("bench control", "the executor could not be armed")
    accepted = offered = 0
    worst = 0.0
    while accepted < splices:
        offered += 1
        steps = rng.standard_normal((spec.action.chunk_steps, len(lower_J))) * rng.choice([0.003, 0.01, 0.03])
        walk_KJ = np.clip(position_J + np.cumsum(steps * (upper_J - lower_J), axis=0), lower_J, upper_J)
        late_s = rng.choice([rng.uniform(0, 0.2), rng.uniform(0.2, 1.2)], p=[2 / 3, 1 / 3])
        observed_ns = now_ns - nanoseconds(late_s) - (NS_PER_S if rng.random() < 0.1 else 0)
        step_ns = nanoseconds(spec.action.step_s)
        accepted += executor.submit(ActionChunk(
            offered, 1, 1, observed_ns, observed_ns + step_ns, step_ns, spec.joint_names, walk_KJ, spec.content_hash,
        ), now_ns).accepted
        for _ in range(int(rng.integers(1, 30))):
            now_ns += period_ns
            command = executor.step(now_ns, RobotState(now_ns, position_J, velocity_J))
            assert command is not None
            worst = max(worst, float((np.abs(command.velocity_J - velocity_J) / step_J).max()))
            position_J, velocity_J = command.position_J, command.velocity_J
    return [
        bench_row("control/splice_position", watched.worst_jump, "rad", splices=accepted, offered=offered),
        bench_row("control/splice_velocity", worst, "ticks", splices=accepted, offered=offered),
    ]
