"""The simulated bimanual cell: physics, cameras and contacts behind one class.

One thread owns a Cell: the OpenGL context belongs to the thread that renders first.
Shapes: J = joints in contract order (rad, grippers as half opening in m), H W C = image. World frame: table top z = 0,
x forward, y to the left, metres.
"""

from __future__ import annotations

import atexit
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from starry_ros.errors import ContractError, InputError, RuntimeUnavailable
from starry_ros.kinematics.backend import mujoco
from starry_ros.robot_spec import RobotSpec
from starry_ros.sim.choices import COLOURS
from starry_ros.sim.look import Appearance, Look, Worn
from starry_ros.sim.raycast import RayCaster
from starry_ros.sim.scenes import ASSET_DIR, compile_scene
from starry_ros.types import F32, F64, U8, CameraModel, RobotState

BLOCK_HALF_M = 0.02
PAD_HALF_M = 0.05
PAD_TOP_M = 0.003
LIT_M = 0.006
"""A button that is pressed this far lights up, and stays lit."""
FAR_M = 3.0
POSE = int(mujoco.mjtState.mjSTATE_QPOS | mujoco.mjtState.mjSTATE_MOCAP_POS | mujoco.mjtState.mjSTATE_MOCAP_QUAT)
"""What of MuJoCo's state says where everything is."""


@dataclass(frozen=True)
class BlockPose:
    """Where a block lies on the table."""

    x_m: float
    y_m: float
    yaw_rad: float


@dataclass(frozen=True)
class Layout:
    """Where the objects lie at the start of an episode.

    `scene` names what stands in the cell besides blocks and pad: asset files joined by `+`. `fixtures` are poses of its
    bodies, `heights_m` how high a block lies that is not on the table, `look` is the hard setting's.
    """

    blocks: Mapping[str, BlockPose]
    pad_x_m: float
    pad_y_m: float
    scene: str = "cell"
    fixtures: Mapping[str, BlockPose] = field(default_factory=dict)
    heights_m: Mapping[str, float] = field(default_factory=dict)
    look: Look | None = None


@dataclass(frozen=True)
class Contact:
    """One contact point: the two geoms, the world position [3] and the normal force."""

    first: str
    second: str
    point_m: F64
    force_n: float


@dataclass(frozen=True)
class Sight:
    """What a cell looks like at an instant: its scene, where everything is, and its look. For other processes too."""

    scene: str
    pose: F64
    look: Worn


class Cell:
    """Two arms, three blocks and a pad in MuJoCo, and what the task adds, driven by joint position targets."""

    def __init__(self, spec: RobotSpec, model_path: Path = ASSET_DIR / "cell.xml") -> None:
        self.spec, self.scene, self._path = spec, "cell", model_path
        self._renderer: mujoco.Renderer | RayCaster | None = None
        self._build(mujoco.MjModel.from_xml_path(str(model_path)))

    def load(self, scene: str) -> None:
        """Change to another scene; nothing happens if it is the present one."""
        if scene != self.scene:
            model = compile_scene(scene, self._path)
            self.close()
            self.scene = scene
            self._build(model)

    def match(self, other: Cell) -> None:
        """Become a copy of another cell's state and look."""
        self.load(other.scene)
        self._appearance.wear(other._appearance.worn())
        mujoco.mj_copyData(self.data, self.model, other.data)

    def sight(self) -> Sight:
        """What pictures of this instant need."""
        pose = np.empty(mujoco.mj_stateSize(self.model, POSE))
        mujoco.mj_getState(self.model, self.data, pose, POSE)
        return Sight(self.scene, pose, self._appearance.worn())

    def show(self, sight: Sight) -> None:
        """Look as another cell did, for pictures alone: nothing else than poses is brought up to date."""
        self.load(sight.scene)
        self._appearance.wear(sight.look)
        mujoco.mj_setState(self.model, self.data, sight.pose, POSE)
        mujoco.mj_fwdPosition(self.model, self.data)

    def wear(self, look: Look) -> None:
        """Change to another look of the hard setting; the arms and the objects of the task stay as they are."""
        self._appearance.apply(look, self.data)
        mujoco.mj_forward(self.model, self.data)

    def _build(self, model: mujoco.MjModel) -> None:
        """Look everything up in a compiled model."""
        spec, self.model = self.spec, model
        if self.model.stat.extent != 1.0:
            extent = self.model.stat.extent
            raise ContractError(str(self._path), "statistic extent is not pinned", got=extent, expected=1)
        self.data, self._appearance = mujoco.MjData(self.model), Appearance(self.model)
        self._qpos_J, self._qvel_J, self._ctrl_J = self._addresses()
        self._mirror_qpos = {
            i: int(self.model.joint(f"{spec.joint_names[i]}_mirror").qposadr[0]) for i in spec.gripper_indices
        }
        self._geom_names = [self.model.geom(i).name for i in range(self.model.ngeom)]
        self._finger_pads = {
            arm.name: (self.model.geom(f"{arm.name}_pad").id, self.model.geom(f"{arm.name}_pad_mirror").id)
            for arm in spec.arms
        }
        self._blocks = {colour: self.model.geom(colour).id for colour in COLOURS}
        self._block_qpos = {colour: int(self.model.joint(colour).qposadr[0]) for colour in COLOURS}
        self._block_qvel = {colour: int(self.model.joint(colour).dofadr[0]) for colour in COLOURS}
        self._buttons = {colour: f"{colour}_button" for colour in COLOURS if f"{colour}_button" in self._geom_names}
        self.lit: tuple[str, ...] = ()

    def _addresses(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        try:
            joints = [self.model.joint(name) for name in self.spec.joint_names]
            actuators = [self.model.actuator(name).id for name in self.spec.joint_names]
        except KeyError as error:
            raise ContractError(
                self.spec.name, "the cell lacks a joint of the contract", got=str(error),
                fix="name MJCF joints and actuators as in the robot contract",
            ) from error
        qpos = np.array([joint.qposadr[0] for joint in joints])
        return qpos, np.array([joint.dofadr[0] for joint in joints]), np.array(actuators)

    def reset(self, layout: Layout, start_J: F64 | None = None) -> None:
        """Lay out the objects and put the arms at `start_J` (default: home), at rest, at time 0."""
        self.load(layout.scene)
        mujoco.mj_resetData(self.model, self.data)
        if layout.look is None:
            self._appearance.restore()
        else:
            self._appearance.apply(layout.look, self.data)
        self._lay_fixtures(layout)
        start = self.spec.limit("home") if start_J is None else self._checked(start_J)
        self.data.qpos[self._qpos_J] = start
        for i, address in self._mirror_qpos.items():
            self.data.qpos[address] = start[i]
        self.data.ctrl[self._ctrl_J] = start
        for colour, pose in layout.blocks.items():
            address, half = self._block_qpos[colour], pose.yaw_rad / 2
            height = layout.heights_m.get(colour, 0.0)
            self.data.qpos[address : address + 3] = (pose.x_m, pose.y_m, BLOCK_HALF_M + height)
            self.data.qpos[address + 3 : address + 7] = (math.cos(half), 0.0, 0.0, math.sin(half))
        self.data.mocap_pos[0] = (layout.pad_x_m, layout.pad_y_m, PAD_TOP_M / 2)
        mujoco.mj_forward(self.model, self.data)

    def _lay_fixtures(self, layout: Layout) -> None:
        """Bodies of the scene to their places, buttons dark."""
        self.lit = ()
        for colour in self._buttons:
            self.model.mat(f"{colour}_button").emission[:] = 0.0
        for name, pose in layout.fixtures.items():
            body, turn = self.model.body(name), (math.cos(pose.yaw_rad / 2), 0.0, 0.0, math.sin(pose.yaw_rad / 2))
            if body.mocapid[0] >= 0:
                self.data.mocap_pos[int(body.mocapid[0])][:2] = pose.x_m, pose.y_m
                self.data.mocap_quat[int(body.mocapid[0])] = turn
            else:
                address = int(self.model.joint(name).qposadr[0])
                self.data.qpos[address : address + 2] = pose.x_m, pose.y_m
                self.data.qpos[address + 3 : address + 7] = turn

    def _checked(self, position_J: F64) -> F64:
        position = np.asarray(position_J, dtype=np.float64)
        if position.shape != (len(self.spec.joints),) or not np.isfinite(position).all():
            raise InputError(
                "cell", "bad joint positions", got=position.tolist(), expected=f"{len(self.spec.joints)} finite numbers"
            )
        return np.clip(position, self.spec.limit("lower"), self.spec.limit("upper"))

    def apply(self, position_J: F64) -> None:
        """Set the position targets of all joints, held to the joint limits."""
        self.data.ctrl[self._ctrl_J] = self._checked(position_J)

    def advance(self, duration_s: float) -> None:
        """Run physics for `duration_s`, rounded to whole steps, and bring poses and contacts up to date."""
        mujoco.mj_step(self.model, self.data, nstep=max(1, round(duration_s / self.model.opt.timestep)))
        mujoco.mj_forward(self.model, self.data)
        for colour, joint in self._buttons.items():
            if colour not in self.lit and self.slide(joint) < -LIT_M:
                self.lit = (*self.lit, colour)
                self.model.mat(joint).emission[:] = 1.0

    def slide(self, joint: str) -> float:
        """Position of a drawer or button in m."""
        return float(self.data.joint(joint).qpos[0])

    def body_pose(self, name: str) -> tuple[F64, F64]:
        """World position [3] and rotation [3, 3] of a body."""
        body = self.data.body(name)
        return np.array(body.xpos), np.array(body.xmat).reshape(3, 3)

    def geom_position(self, name: str) -> F64:
        """World position [3] of a geom's centre."""
        return np.array(self.data.geom(name).xpos)

    def grips(self, arm: str, geom: str) -> bool:
        """Whether both finger pads of `arm` press on a geom."""
        return self._pressing(arm, geom) == 2

    def touches(self, arm: str, geom: str) -> bool:
        """Whether a finger pad of `arm` presses on a geom."""
        return self._pressing(arm, geom) > 0

    def _pressing(self, arm: str, geom: str) -> int:
        target = self.model.geom(geom).id
        pairs = {frozenset(pair.tolist()) for pair in self.data.contact.geom[: self.data.ncon]}
        return sum(frozenset((pad, target)) in pairs for pad in self._finger_pads[arm])

    @property
    def sim_time_s(self) -> float:
        """Simulated seconds since the reset."""
        return float(self.data.time)

    @property
    def command_J(self) -> F64:  # noqa: N802
        """The position targets in force."""
        return np.array(self.data.ctrl[self._ctrl_J])

    @property
    def pushed_J(self) -> F64:  # noqa: N802
        """How far what each joint touches holds it off its target: the torque of contacts over the servo's stiffness.

        The end of a joint's range pushes as well.
        """
        stiffness_J = self.model.actuator_gainprm[self._ctrl_J, 0]
        return np.asarray(self.data.qfrc_constraint[self._qvel_J] / stiffness_J, dtype=np.float64)

    def state(self, now_ns: int) -> RobotState:
        """Measured joints, stamped `now_ns`. A closed empty jaw reads about 0, a jaw on a block about 0.02."""
        return RobotState(now_ns, self.data.qpos[self._qpos_J].copy(), self.data.qvel[self._qvel_J].copy())

    def block_position(self, colour: str) -> F64:
        """World position [3] of a block's centre."""
        return np.array(self.data.body(colour).xpos)

    def block_rotation(self, colour: str) -> F64:
        """World rotation [3, 3] of a block."""
        return np.array(self.data.body(colour).xmat).reshape(3, 3)

    def block_speed(self, colour: str) -> float:
        """Speed of a block's centre in m/s."""
        address = self._block_qvel[colour]
        return float(np.linalg.norm(self.data.qvel[address : address + 3]))

    def push_block(self, colour: str, vx_m_s: float, vy_m_s: float) -> None:
        """Give a block a horizontal velocity, as a nudge from outside would."""
        address = self._block_qvel[colour]
        self.data.qvel[address : address + 2] = (vx_m_s, vy_m_s)

    @property
    def pad_position(self) -> F64:
        """World position [3] of the centre of the pad's top."""
        return np.array([*self.data.mocap_pos[0][:2], PAD_TOP_M])

    def pinch_position(self, arm: str) -> F64:
        """World position [3] of the point between the finger pads of `arm`."""
        return np.array(self.data.site(f"{arm}_pinch").xpos)

    def contacts(self) -> tuple[Contact, ...]:
        """All contacts of this instant with a normal force."""
        return tuple(self._contact(i) for i in range(self.data.ncon))

    def contacts_between(self, first: str, second: str) -> tuple[Contact, ...]:
        """Contacts between two geoms, given by name."""
        wanted = {self.model.geom(first).id, self.model.geom(second).id}
        pairs = self.data.contact.geom[: self.data.ncon]
        return tuple(self._contact(i) for i, pair in enumerate(pairs) if set(pair.tolist()) == wanted)

    def _contact(self, index: int) -> Contact:
        wrench = np.zeros(6)
        mujoco.mj_contactForce(self.model, self.data, index, wrench)
        contact = self.data.contact[index]
        first, second = (self._geom_names[int(geom)] for geom in contact.geom)
        return Contact(first, second, contact.pos.copy(), float(wrench[0]))

    def touched(self, colour: str) -> bool:
        """Whether any part of either hand touches the block, or another geom given by name."""
        block = self._blocks[colour] if colour in self._blocks else self.model.geom(colour).id
        for pair in self.data.contact.geom[: self.data.ncon]:
            if block in pair:
                other = self._geom_names[int(pair[0] + pair[1] - block)]
                if other.startswith(tuple(f"{arm.name}_" for arm in self.spec.arms)):
                    return True
        return False

    def held(self, arm: str) -> str | None:
        """Colour of the block that both finger pads of `arm` press on while the jaw is told to close, else None."""
        first, second = self._finger_pads[arm]
        if self.command_J[self.spec.arm_slice(arm)][-1] > 0.95 * BLOCK_HALF_M:
            return None
        pairs = {frozenset(pair.tolist()) for pair in self.data.contact.geom[: self.data.ncon]}
        for colour, block in self._blocks.items():
            if frozenset((first, block)) in pairs and frozenset((second, block)) in pairs:
                return colour
        return None

    def render(self, camera: str) -> U8:
        """RGB image [H, W, 3] of a camera, in the size of the contract's cameras."""
        renderer = self._opened()
        renderer.update_scene(self.data, camera=camera)
        return np.array(renderer.render(), dtype=np.uint8)

    def depth(self, camera: str) -> F32:
        """Depth image [H, W] along the optical axis in m, 0 where nothing is nearer than FAR_M."""
        renderer = self._opened()
        renderer.update_scene(self.data, camera=camera)
        renderer.enable_depth_rendering()
        try:
            depth: F32 = np.array(renderer.render(), dtype=np.float32)
        finally:
            renderer.disable_depth_rendering()
        depth[depth >= FAR_M] = 0.0
        return depth

    def _opened(self) -> mujoco.Renderer | RayCaster:
        if self._renderer is None:
            self._renderer = self._make_renderer()
            atexit.register(self.close)  # after OpenGL has registered its own end, so that it runs before it
        return self._renderer

    def _make_renderer(self) -> mujoco.Renderer | RayCaster:
        sizes = {(camera.height_px, camera.width_px) for camera in self.spec.cameras}
        if len(sizes) != 1:
            raise ContractError(self.spec.name, "the cell needs cameras of one size", got=sorted(sizes))
        height_px, width_px = sizes.pop()
        if os.environ["MUJOCO_GL"] == "disable":
            return RayCaster(self.model, height_px, width_px)
        try:
            renderer = mujoco.Renderer(self.model, height_px, width_px)
        except Exception as error:
            raise RuntimeUnavailable(
                "renderer", f"no OpenGL context: {error}",
                fix="install libegl1, or libosmesa6 and set MUJOCO_GL=osmesa, or set MUJOCO_GL=disable to cast rays",
            ) from error
        for flag in (mujoco.mjtRndFlag.mjRND_SHADOW, mujoco.mjtRndFlag.mjRND_REFLECTION):
            renderer.scene.flags[flag] = 0
        return renderer

    def camera_model(self, camera: str) -> CameraModel:
        """Pinhole model of a camera at this instant, in the ROS optical frame, pixel centres at integers."""
        spec = self.spec.camera(camera)
        index = self.model.camera(camera).id
        focal = 0.5 * spec.height_px / math.tan(math.radians(self.model.cam_fovy[index]) / 2)
        pose = np.eye(4)
        pose[:3, :3] = self.data.cam_xmat[index].reshape(3, 3) @ np.diag([1.0, -1.0, -1.0])
        pose[:3, 3] = self.data.cam_xpos[index]
        cx, cy = spec.width_px / 2 - 0.5, spec.height_px / 2 - 0.5
        return CameraModel(camera, spec.width_px, spec.height_px, focal, focal, cx, cy, pose)

    def first_hit(self, origin: F64, target: F64) -> tuple[str, float]:
        """Name of the first geom on the ray from `origin` through `target`, and its distance in m (inf if none)."""
        direction = (target - origin) / np.linalg.norm(target - origin)
        geom = np.zeros(1, dtype=np.int32)
        distance = mujoco.mj_ray(self.model, self.data, origin, direction, None, 1, -1, geom)
        return (self._geom_names[int(geom[0])], float(distance)) if geom[0] >= 0 else ("", math.inf)

    def close(self) -> None:
        """Free the OpenGL context; call it in the thread that rendered."""
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None
            atexit.unregister(self.close)
