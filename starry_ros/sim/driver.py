"""The simulated robot as its driver: trajectories in, sensor readings out, on a clock that follows real time.

One thread owns it. Physics advances in control ticks; `time_ns` is the local time of the physics instant, and every
reading is stamped with it. When the process was held up, the ticks it missed are run at once; a gap of more than
`LONGEST_GAP_S` is dropped instead: trajectories are forgotten, the arms hold, and `lost_ns` counts it.

What the controllers ask for reaches the drives through the driver's own velocity limits, as in ros2_control with
`enforce_command_limits: true`: commands that were lost or refused leave a gap, which is closed no faster than that.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np

from starry_ros.errors import ConfigError
from starry_ros.robot_spec import RobotSpec
from starry_ros.sim.cell import Cell, Layout, Sight
from starry_ros.sim.tasks import SETTINGS, TASKS, Check, Split, drawn_case, make_check, sentence, task_of
from starry_ros.sim.trajectory_controller import Rejection, Trajectory, TrajectoryController
from starry_ros.timing import nanoseconds, seconds
from starry_ros.types import F64, U8, CameraModel, RobotState

LONGEST_GAP_S = 1.0
ROUNDING = 1e-9
"""By which a step may be too long and not be counted as limited."""


class SimulatedDriver:
    """A cell behind one trajectory controller an arm."""

    def __init__(self, spec: RobotSpec, cell: Cell, now_ns: int) -> None:
        self.spec, self.cell, self.time_ns = spec, cell, now_ns
        self.lost_ns = 0
        self.rejected: Counter[str] = Counter()
        self.limited_ticks = 0
        self._forced_open_ns: dict[str, int] = {}
        self._tick_ns = nanoseconds(1.0 / spec.rates.control_hz)
        self._longest_J = spec.limit("velocity") * seconds(self._tick_ns)
        home = spec.limit("home")
        self._controllers = {
            arm.name: TrajectoryController(
                tuple(joint.name for joint in arm.joints), home[spec.arm_slice(arm.name)], now_ns
            )
            for arm in spec.arms
        }

    def restart(self) -> None:
        """Hold where the arms are told to be now; call it after the cell was reset."""
        self._forced_open_ns = {}
        self._hold(self.cell.command_J)

    def accept(self, arm: str, trajectory: Trajectory) -> Rejection | None:
        """Hand a trajectory to an arm's controller; the reason and a count if it is refused."""
        rejection = self._controllers[arm].accept(trajectory, self.time_ns)
        if rejection is not None:
            self.rejected[f"{arm}.{rejection}"] += 1
        return rejection

    def set_point(self, arm: str, position_A: F64) -> bool:
        """A set-point for an arm, without interpolation, as of a forward position controller; False if unusable."""
        fits = position_A.shape == (len(self._controllers[arm].joint_names),) and bool(np.isfinite(position_A).all())
        if fits:
            self._controllers[arm].reset(position_A, self.time_ns)
        else:
            self.rejected[f"{arm}.bad_set_point"] += 1
        return fits

    def force_open(self, arm: str, duration_s: float) -> None:
        """Open the arm's jaw for so long whatever is commanded, as a slipping grasp or a fault of the jaw would."""
        self._forced_open_ns[arm] = self.time_ns + nanoseconds(duration_s)

    def desired(self) -> F64:
        """What the controllers ask of the joints now, in contract order."""
        return np.concatenate([self._controllers[arm.name].sample(self.time_ns).position_J for arm in self.spec.arms])

    def reference(self) -> RobotState:
        """What the controllers ask for at the physics instant, with its velocities (0 between set-points)."""
        points = [self._controllers[arm.name].sample(self.time_ns) for arm in self.spec.arms]
        rest = [np.zeros_like(point.position_J) if point.velocity_J is None else point.velocity_J for point in points]
        return RobotState(self.time_ns, np.concatenate([point.position_J for point in points]), np.concatenate(rest))

    def pushed(self) -> RobotState:
        """How far contacts hold the joints off their targets at the physics instant; no velocities."""
        pushed_J = self.cell.pushed_J
        return RobotState(self.time_ns, pushed_J, np.zeros_like(pushed_J))

    def behind(self, now_ns: int) -> bool:
        """Whether a tick is due; drops a gap that is too long to catch up with."""
        gap_ns = now_ns - self.time_ns
        if gap_ns > nanoseconds(LONGEST_GAP_S):
            self._hold(self.desired())
            self.lost_ns += gap_ns
            self.time_ns = now_ns
        return now_ns - self.time_ns >= self._tick_ns

    def tick(self) -> None:
        """Run physics for one control period towards the controllers' set-points, as fast as the limits allow."""
        self.time_ns += self._tick_ns
        before_J, asked_J = self.cell.command_J, self._forced(self.desired())
        within_J = np.clip(asked_J, before_J - self._longest_J, before_J + self._longest_J)
        self.limited_ticks += int(np.abs(asked_J - within_J).max() > ROUNDING)
        self.cell.apply(within_J)
        self.cell.advance(seconds(self._tick_ns))

    def _forced(self, asked_J: F64) -> F64:
        """What is asked for, but with the jaws open that are forced open."""
        for arm, until_ns in self._forced_open_ns.items():
            if self.time_ns <= until_ns:
                part = self.spec.arm_slice(arm)
                asked_J[part][-1] = self.spec.limit("upper")[part][-1]
        return asked_J

    def wait_s(self, now_ns: int) -> float:
        """Seconds until the next tick is due."""
        return max(0.0, seconds(self.time_ns + self._tick_ns - now_ns))

    def state(self) -> RobotState:
        """Measured joints at the physics instant."""
        return self.cell.state(self.time_ns)

    def _hold(self, position_J: F64) -> None:
        for arm in self.spec.arms:
            self._controllers[arm.name].reset(position_J[self.spec.arm_slice(arm.name)], self.time_ns)


class Scene:
    """The episode that is laid out in a cell, and what has been achieved in it."""

    def __init__(self, cell: Cell) -> None:
        self._cell = cell
        self._checks: dict[str, Check] = {}
        self._placed: dict[str, bool] = {}
        self.task = self.colour = self.instruction = ""
        self._unseen_words = False
        self.layout = Layout({}, 0.0, 0.0)

    def reset(self, task: str, setting: str, seed: int, split: Split = "eval") -> str:
        """Lay out an episode of a split; its sentence. ConfigError on an unknown task or setting."""
        for name, value, known in (("task", task, TASKS), ("setting", setting, SETTINGS)):
            if value not in known:
                raise ConfigError(name, "is unknown", got=repr(value), expected=list(known))
        self.task, self._unseen_words = task, split == "eval" and setting == "hard"
        self.layout, self.colour, self.instruction = drawn_case(split, seed, task, setting)
        self.restart()
        return self.instruction

    def restart(self, start_J: F64 | None = None) -> None:
        """Lay the same episode out again, with the arms at `start_J` (default: home)."""
        self._cell.reset(self.layout, start_J)
        targets = task_of(self.task).targets
        self._checks = {target: make_check(self.task, target) for target in targets}
        self._placed = dict.fromkeys(targets, False)

    def ask_for(self, colour: str) -> str:
        """From now on another block is named; the new sentence, in words of the episode's setting."""
        self.colour, self.instruction = colour, sentence(colour, task=self.task, unseen=self._unseen_words)
        return self.instruction

    def update(self) -> None:
        """Look at the cell; call it at least every few control periods."""
        self._placed = {colour: check.update(self._cell) for colour, check in self._checks.items()}

    @property
    def placed(self) -> tuple[str, ...]:
        """Colours of the blocks that were brought to the pad by the rules of the task."""
        return tuple(colour for colour, on_pad in self._placed.items() if on_pad)

    @property
    def success(self) -> bool:
        """Whether the named block is among them."""
        return self._placed.get(self.colour, False)


class CameraRig:
    """All cameras of a cell, in a double of it. The OpenGL context belongs to the thread that renders first."""

    def __init__(self, spec: RobotSpec) -> None:
        self._double = Cell(spec)
        self._cameras = tuple(camera.name for camera in spec.cameras)

    def pictures(self, sight: Sight) -> Iterator[tuple[str, U8, CameraModel]]:
        """Camera, image [H, W, 3] and calibration of one after the other."""
        self._double.show(sight)
        for camera in self._cameras:
            yield camera, self._double.render(camera), self._double.camera_model(camera)

    def close(self) -> None:
        """Free the OpenGL context, in the thread that rendered."""
        self._double.close()


class Simulation:
    """Cell, controllers and scene of one simulated robot, owned by one thread."""

    def __init__(self, spec: RobotSpec, task: str, setting: str, seed: int, now_ns: int) -> None:
        cell = Cell(spec)
        self.scene = Scene(cell)
        self.scene.reset(task, setting, seed)
        self.driver = SimulatedDriver(spec, cell, now_ns)

    def reset(self, task: str, setting: str, seed: int) -> str:
        """Lay out an episode, arms at home; its sentence."""
        instruction = self.scene.reset(task, setting, seed)
        self.driver.restart()
        return instruction
