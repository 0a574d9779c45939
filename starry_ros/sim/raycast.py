"""Camera views without OpenGL: rays through MuJoCo's geoms, lit like its renderer.

A stand-in for `mujoco.Renderer` on machines without a graphics library, slower, one ray for every 2 x 2 pixels. Lit by
the fixed-function model of OpenGL 1 (ambient, diffuse, specular, spot lights) at every ray; a texture counts as its
mean colour; no shadows, no transparency. (`mj_multiRay` is not used: it loses parts of geoms seen straight from above.)

Shapes: P rays in rows, G geoms, T textures; vectors are [.., 3] in the world frame.
"""

from __future__ import annotations

import math

import numpy as np

from starry_ros.errors import InputError
from starry_ros.kinematics.backend import mujoco
from starry_ros.types import F32, F64, U8

STEP_PX = 2


class RayCaster:
    """Renders one size of picture. Same calls as `mujoco.Renderer`."""

    def __init__(self, model: mujoco.MjModel, height_px: int, width_px: int) -> None:
        self._model, self._height_px, self._width_px = model, height_px, width_px
        self._rows, self._columns = -(-height_px // STEP_PX), -(-width_px // STEP_PX)
        self._data: mujoco.MjData | None = None
        self._camera, self._depth = 0, False
        self._geom_P = np.zeros(self._rows * self._columns, dtype=np.int32)
        self._distance_P = np.zeros(len(self._geom_P))
        self._normal_P3 = np.zeros((len(self._geom_P), 3))
        self._texture_T3 = np.array([_mean_texture(model, texture) for texture in range(model.ntex)])
        self._sky_3 = self._texture_T3[int(np.flatnonzero(model.tex_type == mujoco.mjtTexture.mjTEXTURE_SKYBOX)[0])]

    def update_scene(self, data: mujoco.MjData, camera: str) -> None:
        """Choose what `render` shows: `data` at that time, seen by `camera`."""
        self._data, self._camera = data, self._model.camera(camera).id

    def enable_depth_rendering(self) -> None:
        """From now on `render` gives depth."""
        self._depth = True

    def disable_depth_rendering(self) -> None:
        """From now on `render` gives colour."""
        self._depth = False

    def render(self) -> U8 | F32:
        """RGB image [H, W, 3], or depth [H, W] along the optical axis in m, infinite where nothing is hit."""
        if self._data is None:
            raise InputError("ray caster", "there is no scene", fix="call update_scene first")
        ray_P3, eye_3 = self._rays(), self._data.cam_xpos[self._camera]
        self._cast(eye_3, ray_P3)
        hit_P = self._geom_P >= 0
        if self._depth:
            axis_3 = -self._data.cam_xmat[self._camera].reshape(3, 3)[:, 2]
            depth_P = np.where(hit_P, self._distance_P * (ray_P3 @ axis_3), np.inf).astype(np.float32)
            depth = depth_P.reshape(self._rows, self._columns).repeat(STEP_PX, axis=0).repeat(STEP_PX, axis=1)
            return depth[: self._height_px, : self._width_px]
        self._colour_G3, self._shine_G2, self._glow_G = _surfaces(self._model, self._texture_T3)
        colour_P3 = np.tile(self._sky_3, (len(ray_P3), 1))
        colour_P3[hit_P] = self._lit(hit_P, eye_3, ray_P3[hit_P])
        image: U8 = (255 * np.clip(colour_P3, 0.0, 1.0) + 0.5).astype(np.uint8)
        image = image.reshape(self._rows, self._columns, 3).repeat(STEP_PX, axis=0).repeat(STEP_PX, axis=1)
        return image[: self._height_px, : self._width_px]

    def _cast(self, eye_3: F64, ray_P3: F64) -> None:
        """First hit of every ray: geom (-1: none), distance and normal."""
        cast, model, data, geom = mujoco.mj_ray, self._model, self._data, np.zeros(1, dtype=np.int32)
        for i, ray in enumerate(ray_P3):
            self._distance_P[i] = cast(model, data, eye_3, ray, None, 1, -1, geom, self._normal_P3[i])
            self._geom_P[i] = geom[0]

    def close(self) -> None:
        """Nothing to free."""

    def _rays(self) -> F64:
        """Unit directions [P, 3] through the middle of every 2 x 2 pixels."""
        assert self._data is not None
        focal_px = 0.5 * self._height_px / math.tan(math.radians(self._model.cam_fovy[self._camera]) / 2)
        right = (STEP_PX * (np.arange(self._columns) + 0.5) - self._width_px / 2) / focal_px
        up = -(STEP_PX * (np.arange(self._rows) + 0.5) - self._height_px / 2) / focal_px
        x, y = np.meshgrid(right, up)
        ray_P3 = np.stack([x, y, -np.ones_like(x)], axis=-1).reshape(-1, 3)
        ray_P3 /= np.linalg.norm(ray_P3, axis=1, keepdims=True)
        turned: F64 = np.ascontiguousarray(ray_P3 @ self._data.cam_xmat[self._camera].reshape(3, 3).T)
        return turned

    def _lit(self, hit_P: np.ndarray, eye_3: F64, ray_P3: F64) -> F64:
        """Colours of the pixels that show something."""
        assert self._data is not None
        model, geom_P, normal_P3 = self._model, self._geom_P[hit_P], self._normal_P3[hit_P]
        normal_P3 = np.where((normal_P3 * ray_P3).sum(1, keepdims=True) > 0, -normal_P3, normal_P3)
        point_P3 = eye_3 + self._distance_P[hit_P, None] * ray_P3
        base_P3, shine_P2 = self._colour_G3[geom_P], self._shine_G2[geom_P]
        head = model.vis.headlight
        facing_P1 = np.maximum(-(normal_P3 * ray_P3).sum(1, keepdims=True), 0.0)
        light_P3 = self._glow_G[geom_P, None] + head.ambient + facing_P1 * head.diffuse
        gloss_P3 = np.zeros_like(point_P3)
        for i in range(model.nlight):
            to_light_P3 = self._data.light_xpos[i] - point_P3
            to_light_P3 /= np.linalg.norm(to_light_P3, axis=1, keepdims=True)
            spot_P1 = _spot(-(to_light_P3 @ self._data.light_xdir[i]), model.light_cutoff[i], model.light_exponent[i])
            light_P3 = light_P3 + model.light_ambient[i]
            cosine_P1 = np.maximum((normal_P3 * to_light_P3).sum(1, keepdims=True), 0.0)
            light_P3 = light_P3 + spot_P1 * cosine_P1 * model.light_diffuse[i]
            half_P3 = to_light_P3 - ray_P3
            half_P3 /= np.linalg.norm(half_P3, axis=1, keepdims=True)
            glance_P1 = np.maximum((normal_P3 * half_P3).sum(1, keepdims=True), 0.0) ** shine_P2[:, 1:]
            gloss_P3 += spot_P1 * (cosine_P1 > 0) * glance_P1 * shine_P2[:, :1] * model.light_specular[i]
        colours: F64 = base_P3 * light_P3 + gloss_P3
        return colours


def _spot(cosine_P: F64, cutoff_deg: float, exponent: float) -> F64:
    """Share [P, 1] of a spot light that arrives at an angle from its axis."""
    inside = cosine_P >= math.cos(math.radians(cutoff_deg))
    share: F64 = np.where(inside, np.maximum(cosine_P, 0.0) ** exponent, 0.0)
    return share[:, None]


def _surfaces(model: mujoco.MjModel, texture_T3: F64) -> tuple[F64, F64, F64]:
    """Per geom, as the model looks now: colour [G, 3], specular share and exponent [G, 2], share that it glows [G]."""
    colour_G3, shine_G2 = model.geom_rgba[:, :3].astype(np.float64), np.full((model.ngeom, 2), (0.5, 64.0))
    glow_G = np.zeros(model.ngeom)
    for geom, material in enumerate(model.geom_matid.tolist()):
        if material < 0:
            continue
        texture = int(model.mat_texid[material].max())
        tint = model.mat_rgba[material, :3].astype(np.float64)
        colour_G3[geom] = tint * (texture_T3[texture] if texture >= 0 else 1.0)
        glow_G[geom] = model.mat_emission[material]
        shine_G2[geom] = model.mat_specular[material], 128.0 * model.mat_shininess[material]
    return colour_G3, shine_G2, glow_G


def _mean_texture(model: mujoco.MjModel, texture: int) -> F64:
    """Mean colour [3] of a texture, 0..1."""
    begin, channels = int(model.tex_adr[texture]), int(model.tex_nchannel[texture])
    size = int(model.tex_height[texture]) * int(model.tex_width[texture]) * channels
    mean: F64 = model.tex_data[begin : begin + size].reshape(-1, channels)[:, :3].mean(axis=0) / 255
    return mean
