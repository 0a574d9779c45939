"""Plans at a pace that the joints' limits can follow.

The executor slows all joints for one that is asked for too much, while the plan's clock runs on. So a plan asks for
nothing that takes longer than it says: no step of an arm is longer than its speed allows, jaws open and close in ramps.

Shapes: K chunk steps, J joints in contract order.
"""

from __future__ import annotations

import math

import numpy as np

from starry_ros.robot_spec import RobotSpec
from starry_ros.types import F64


class Pace:
    """What one robot's joints can follow."""

    def __init__(self, spec: RobotSpec) -> None:
        self._lower_J, self._upper_J = spec.limit("lower"), spec.limit("upper")
        self._jaws = {joint: _jaw_steps(spec, joint) for joint in spec.gripper_indices}
        self._longest_J = spec.limit("velocity") * spec.action.step_s
        self._longest_J[list(self._jaws)] = np.inf

    def of_arms(self, positions_KJ: F64, committed: int) -> F64:
        """The same way, with as much time as it needs from the last of its `committed` steps on.

        What comes after a long step comes later, what no longer fits is left to the next plan. A plan that sees late
        that a commitment led astray may be back at its object in one step, and close the jaws before the arm is.
        """
        lengths_K = (np.abs(np.diff(positions_KJ, axis=0)) / self._longest_J).max(axis=1)
        lengths_K[: max(0, committed - 1)] = 1.0
        if lengths_K.max(initial=0.0) <= 1.0:
            return positions_KJ
        at_K = np.concatenate([[0.0], np.cumsum(np.maximum(lengths_K, 1.0))])
        steps_K = np.arange(len(positions_KJ))
        return np.stack([np.interp(steps_K, at_K, joint_K) for joint_K in positions_KJ.T], axis=1)

    def snap_jaws(self, positions_KJ: F64, committed: int) -> None:
        """Jaws behind the `committed` steps open or closed, in place, with ramps between."""
        for joint, steps in self._jaws.items():
            middle = (self._lower_J[joint] + self._upper_J[joint]) / 2
            snapped_K = np.where(positions_KJ[:, joint] > middle, self._upper_J[joint], self._lower_J[joint])
            positions_KJ[committed:, joint] = _ramped(snapped_K, steps)[committed:]


def _jaw_steps(spec: RobotSpec, joint: int) -> int:
    """Steps of a chunk in which a jaw goes from one end to the other within its limits; odd."""
    travel, velocity = spec.limit("upper")[joint] - spec.limit("lower")[joint], spec.limit("velocity")[joint]
    acceleration = spec.limit("acceleration")[joint]
    cruises = travel > velocity**2 / acceleration
    takes_s = travel / velocity + velocity / acceleration if cruises else 2 * math.sqrt(travel / acceleration)
    return math.ceil(takes_s / spec.action.step_s - 1e-9) | 1


def _ramped(positions_K: F64, steps: int) -> F64:
    """Jumps as ramps of so many steps around them."""
    ramp: F64 = np.convolve(np.pad(positions_K, steps // 2, mode="edge"), np.full(steps, 1 / steps), mode="valid")
    return ramp
