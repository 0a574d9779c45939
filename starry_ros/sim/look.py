"""The hard setting: how a cell is made to look and feel different in every episode.

Drawn anew are the colours of blocks, tray and drawer within their names, of table, tiles and sky; brightness and places
of lights; camera poses, by millimetres and hundredths of a radian; one factor of all friction; three things that lie
behind the working area. Not drawn are textures (there are none), the table's height, colours without a name of the
task, sizes, masses, and where objects lie, which is as in the easy setting: the cell as its file says.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from starry_ros.kinematics.backend import mujoco
from starry_ros.types import F64

SURFACES = ("table", "edge", "tiles", "sky")
CLUTTER = ("clutter_0", "clutter_1", "clutter_2")
HUE_JITTER, SURFACE_JITTER = 0.07, 0.10
LIGHT_RANGE = (0.65, 1.30)
CAMERA_SHIFT_M, CAMERA_TURN_RAD = 0.004, 0.010
FRICTION_RANGE = (0.75, 1.25)
CLUTTER_X_M, CLUTTER_Y_M = (0.31, 0.42), (-0.34, 0.34)
FIELDS = ("mat_rgba", "light_diffuse", "light_pos", "cam_pos", "cam_quat", "geom_friction")
_COLOURED = ("red", "green", "blue", "tray", "drawer", "cabinet", "knob")


Worn = Mapping[str, F64]
"""A look, field by field; it can be sent to another process."""


@dataclass(frozen=True)
class Look:
    """Everything that is drawn for one hard episode follows from this seed."""

    seed: int


class Appearance:
    """A model's own look, and how to change it and bring it back."""

    def __init__(self, model: mujoco.MjModel) -> None:
        self._model = model
        self._own: dict[str, F64] = {name: np.array(getattr(model, name)) for name in FIELDS}
        self._ambient: Any = np.array(model.vis.headlight.ambient)

    def restore(self) -> None:
        """The file's own look."""
        for name, value in self._own.items():
            getattr(self._model, name)[:] = value
        self._model.vis.headlight.ambient[:] = self._ambient

    def apply(self, look: Look, data: mujoco.MjData) -> None:
        """The look of one hard episode."""
        self.restore()
        model, rng = self._model, np.random.default_rng([0x6C6F, look.seed])
        for index in range(model.nmat):
            name = model.mat(index).name
            jitter = SURFACE_JITTER if name in SURFACES else HUE_JITTER if name.startswith(_COLOURED) else 0.0
            model.mat_rgba[index, :3] = np.clip(model.mat_rgba[index, :3] + rng.uniform(-jitter, jitter, 3), 0.02, 0.98)
        model.light_diffuse[:] *= rng.uniform(*LIGHT_RANGE, (model.nlight, 1))
        model.light_pos[:, :2] += rng.uniform(-0.4, 0.4, (model.nlight, 2))
        model.vis.headlight.ambient[:] = self._ambient * rng.uniform(*LIGHT_RANGE)
        model.cam_pos[:] += rng.uniform(-CAMERA_SHIFT_M, CAMERA_SHIFT_M, model.cam_pos.shape)
        for index in range(model.ncam):
            model.cam_quat[index] = _turned(model.cam_quat[index], rng.uniform(-CAMERA_TURN_RAD, CAMERA_TURN_RAD, 3))
        model.geom_friction[:, 0] *= rng.uniform(*FRICTION_RANGE)
        self._scatter(rng, data)

    def _scatter(self, rng: np.random.Generator, data: mujoco.MjData) -> None:
        """Clutter at random places behind and beside the working area."""
        for name in CLUTTER:
            body = self._model.body(name)
            data.mocap_pos[int(body.mocapid[0])] = (rng.uniform(*CLUTTER_X_M), rng.uniform(*CLUTTER_Y_M), 0.0)
            material = self._model.mat(name).id
            self._model.mat_rgba[material, :3] = rng.uniform(0.1, 0.9, 3)

    def worn(self) -> Worn:
        """The look that the model has now."""
        return {name: np.array(part) for name, part in self._parts().items()}

    def wear(self, worn: Worn) -> None:
        """Take the look of another model of the same scene."""
        for name, part in self._parts().items():
            part[:] = worn[name]

    def _parts(self) -> dict[str, Any]:
        """Views of everything that looks differ by, and of the lights of buttons."""
        model = self._model
        fields = {name: getattr(model, name) for name in (*FIELDS, "mat_emission")}
        return {**fields, "ambient": model.vis.headlight.ambient}


def _turned(quaternion: F64, turn_rad: F64) -> F64:
    """A unit quaternion turned by a small rotation vector."""
    delta, result = np.zeros(4), np.zeros(4)
    angle = float(np.linalg.norm(turn_rad))
    mujoco.mju_axisAngle2Quat(delta, turn_rad / max(angle, 1e-12), angle)
    mujoco.mju_mulQuat(result, quaternion, delta)
    return result
