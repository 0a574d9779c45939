"""Robot units to model units and back: pure paired functions over frozen, JSON-stored statistics.

Shapes: N examples, K chunk steps, J joints in contract order; leading dimensions are free.

An arm joint of step k is its difference to the measured position, standardised a step and a joint. A gripper is its
absolute opening mapped to [-1, 1]. Scales have a floor, so that a joint that never moves does not amplify noise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from starry_ros.errors import CheckpointError, InputError
from starry_ros.types import F64

Floats = NDArray[np.floating[Any]]
ARM_SCALE_FLOOR_RAD = 0.02
GRIPPER_SCALE_FLOOR_M = 0.005
WIDER = 2.0


@dataclass(frozen=True)
class NormStats:
    """x = (position - relative * measured - offset) / scale for actions, (position - offset) / scale for states.

    `relative_J` is 1 for arm joints and 0 for grippers. Radians for arm joints, metres for grippers.
    """

    relative_J: F64
    action_offset_KJ: F64
    action_scale_KJ: F64
    state_offset_J: F64
    state_scale_J: F64

    def __post_init__(self) -> None:
        joints = self.relative_J.shape[-1]
        chunk = (len(self.action_offset_KJ), joints)
        shapes = {"relative_J": (joints,), "action_offset_KJ": chunk, "action_scale_KJ": chunk,
                  "state_offset_J": (joints,), "state_scale_J": (joints,)}
        for name, shape in shapes.items():
            array = np.array(getattr(self, name), dtype=np.float64)
            if array.shape != shape or not np.isfinite(array).all():
                raise CheckpointError("norm stats", f"{name} is wrong", got=array.shape, expected=f"finite {shape}")
            if "scale" in name and not (array > 0).all():
                raise CheckpointError("norm stats", f"{name} is not positive", got=float(array.min()), expected="> 0")
            array.setflags(write=False)
            object.__setattr__(self, name, array)

    def actions_to_model(self, positions_KJ: Floats, state_J: Floats) -> F64:
        """Absolute joint positions [..., K, J] planned at measured positions [..., J], in model units."""
        reference = self.relative_J * np.asarray(state_J, dtype=np.float64)[..., None, :]
        return (np.asarray(positions_KJ, dtype=np.float64) - reference - self.action_offset_KJ) / self.action_scale_KJ

    def actions_from_model(self, x_KJ: Floats, state_J: Floats) -> F64:
        """Inverse of `actions_to_model`."""
        reference = self.relative_J * np.asarray(state_J, dtype=np.float64)[..., None, :]
        return np.asarray(x_KJ, dtype=np.float64) * self.action_scale_KJ + self.action_offset_KJ + reference

    def state_to_model(self, position_J: Floats) -> F64:
        """Joint positions [..., J] in model units."""
        return (np.asarray(position_J, dtype=np.float64) - self.state_offset_J) / self.state_scale_J

    def state_from_model(self, x_J: Floats) -> F64:
        """Inverse of `state_to_model`."""
        return np.asarray(x_J, dtype=np.float64) * self.state_scale_J + self.state_offset_J

    def serves(self, other: NormStats) -> bool:
        """Whether the data of `other` are well expressed in these units: spread at most `WIDER` times, centred near."""
        if self.action_scale_KJ.shape != other.action_scale_KJ.shape or (self.relative_J != other.relative_J).any():
            return False
        pairs = ((self.action_offset_KJ, self.action_scale_KJ, other.action_offset_KJ, other.action_scale_KJ),
                 (self.state_offset_J, self.state_scale_J, other.state_offset_J, other.state_scale_J))
        return all(bool((np.abs(centre - offset) <= scale).all() and (spread <= WIDER * scale).all())
                   for offset, scale, centre, spread in pairs)

    def to_json_dict(self) -> dict[str, Any]:
        """Plain JSON types; floats keep every bit."""
        return {name: getattr(self, name).tolist() for name in NormStats.__dataclass_fields__}

    @staticmethod
    def from_json_dict(raw: Mapping[str, Any]) -> NormStats:
        """Inverse of `to_json_dict`. Raises CheckpointError on missing, unknown, ragged or non-finite fields."""
        fields = set(NormStats.__dataclass_fields__)
        if set(raw) != fields:
            missing, unknown = sorted(fields - set(raw)), sorted(set(raw) - fields)
            raise CheckpointError("norm stats", f"missing fields {missing}, unknown fields {unknown}")
        try:
            return NormStats(**{name: np.array(raw[name], dtype=np.float64) for name in fields})
        except (ValueError, TypeError, IndexError) as error:
            raise CheckpointError("norm stats", f"not numbers: {error}") from error


def fit(plans_NKJ: Floats, states_NJ: Floats, gripper_indices: Sequence[int]) -> NormStats:
    """Statistics of absolute plans and the measured positions they start from. Raises InputError on non-finite data."""
    plans, states = np.asarray(plans_NKJ, dtype=np.float64), np.asarray(states_NJ, dtype=np.float64)
    if not (np.isfinite(plans).all() and np.isfinite(states).all() and len(plans)):
        raise InputError("norm stats", "plans or states are empty or not finite", got=plans.shape)
    grippers = list(gripper_indices)
    relative_J = np.ones(states.shape[-1])
    relative_J[grippers] = 0.0
    change_NKJ = plans - relative_J * states[:, None, :]
    offset_KJ, scale_KJ = change_NKJ.mean(0), np.maximum(change_NKJ.std(0), ARM_SCALE_FLOOR_RAD)
    state_offset_J, state_scale_J = states.mean(0), np.maximum(states.std(0), ARM_SCALE_FLOOR_RAD)
    for joint in grippers:
        seen = np.concatenate([plans[..., joint].ravel(), states[:, joint]])
        middle = (seen.max() + seen.min()) / 2
        half = max((seen.max() - seen.min()) / 2, GRIPPER_SCALE_FLOOR_M)
        offset_KJ[:, joint], scale_KJ[:, joint] = middle, half
        state_offset_J[joint], state_scale_J[joint] = middle, half
    return NormStats(relative_J, offset_KJ, scale_KJ, state_offset_J, state_scale_J)
