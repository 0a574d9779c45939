"""Tools of the control tests: chunks, a plan inside the limits, and a robot that does what it is told."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from starry_ros.control.executor import Executor
from starry_ros.robot_spec import KinematicsSpec, load_robot_spec
from starry_ros.timing import nanoseconds
from starry_ros.types import ActionChunk, JointCommand, RobotState

FULL_SPEC = load_robot_spec(Path(__file__).parents[1] / "config" / "robots" / "bimanual_sim.yaml")
SPEC = replace(FULL_SPEC, kinematics=KinematicsSpec("none", ""))
"""Free in space: tests swing every joint as far as it goes."""
HASH = SPEC.content_hash
FORWARD_SPEC = replace(SPEC, command_interface="position_forward")
JOINTS = len(SPEC.joint_names)
LOWER_J, UPPER_J = SPEC.limit("lower"), SPEC.limit("upper")
PERIOD_NS = nanoseconds(1 / SPEC.rates.control_hz)
STEP_NS = nanoseconds(SPEC.action.step_s)
START_NS = 1_000_000_000


def make_chunk(position_KJ: np.ndarray, observation_ns: int, chunk_id: int = 1, **changes: object) -> ActionChunk:
    """A well-formed chunk: the first step 0.1 s after its observation."""
    chunk = ActionChunk(
        chunk_id=chunk_id, epoch=1, instruction_id=1, observation_ns=observation_ns, start_ns=observation_ns + STEP_NS,
        step_ns=STEP_NS, joint_names=SPEC.joint_names, positions_KJ=np.asarray(position_KJ), contract_hash=HASH,
    )
    return replace(chunk, **changes)  # type: ignore[arg-type]


def state_at(position_J: np.ndarray, now_ns: int) -> RobotState:
    return RobotState(now_ns, np.array(position_J, dtype=np.float64), np.zeros(len(position_J)))


class Follower:
    """A robot that does what it is told one period later, its executor, and everything that was sent."""

    def __init__(self, executor: Executor | None = None, position_J: np.ndarray | None = None) -> None:
        self.executor = executor or Executor(SPEC)
        self.now_ns = START_NS
        self.position_J = SPEC.limit("home") if position_J is None else position_J
        self.sent: list[np.ndarray] = []
        self.commands: list[JointCommand] = []

    def tick(self, *, silent: bool = False) -> JointCommand | None:
        """One control period; `silent`: no joint state arrives."""
        self.now_ns += PERIOD_NS
        return self.step(silent=silent)

    def step(self, *, silent: bool = False) -> JointCommand | None:
        """Call the executor at the present time."""
        command = self.executor.step(self.now_ns, None if silent else state_at(self.position_J, self.now_ns))
        if command is not None:
            self.position_J = command.position_J
            self.sent.append(command.position_J)
            self.commands.append(command)
            if len(self.commands) % 2:
                self.executor.look_ahead(self.now_ns)
        return command

    def run(self, duration_s: float, *, silent: bool = False) -> None:
        for _ in range(round(duration_s * SPEC.rates.control_hz)):
            self.tick(silent=silent)

    def arm(self) -> None:
        self.tick()
        reply = self.executor.arm(self.now_ns)
        assert reply.ok, reply.message

    def follow(self, duration_s: float, *, latency_s: float = 0.2, every_s: float = 0.5) -> None:
        """Plans along `smooth_plan`, time 0 being now, observed every `every_s` and handed over `latency_s` later."""
        begin_ns, pending = self.now_ns, []
        for tick in range(round(duration_s * SPEC.rates.control_hz)):
            now_s = tick * PERIOD_NS / 1e9
            if tick % round(every_s * 1e9 / PERIOD_NS) == 0:
                steps = smooth_plan(now_s + 0.1 * np.arange(1, 17))
                pending.append((self.now_ns + nanoseconds(latency_s), self._chunk(steps)))
            while pending and pending[0][0] <= self.now_ns:
                merge = self.executor.submit(pending.pop(0)[1], self.now_ns)
                assert merge.accepted, merge.reason
            self.tick()
        assert self.now_ns == begin_ns + round(duration_s * SPEC.rates.control_hz) * PERIOD_NS

    def _chunk(self, position_KJ: np.ndarray) -> ActionChunk:
        return make_chunk(position_KJ, self.now_ns, self.now_ns, contract_hash=self.executor._spec.content_hash)

    @property
    def positions(self) -> np.ndarray:
        """Everything sent, [N, J]."""
        return np.array(self.sent)


def smooth_plan(t_s: np.ndarray | float, amplitude: float = 0.4, pulse: float = 1.5) -> np.ndarray:
    """A motion well inside the limits that starts at rest at `home` (grippers half open): [..., J]."""
    t = np.asarray(t_s, dtype=np.float64)[..., None]
    ease = np.clip(t / 2, 0, 1)
    ease = ease**3 * (10 - 15 * ease + 6 * ease**2)
    size = np.full(JOINTS, amplitude)
    base = SPEC.limit("home")
    for j in SPEC.gripper_indices:
        size[j], base[j] = 0.01, 0.02
    return base + ease * size * np.sin(pulse * t + np.arange(JOINTS))
