"""The brain without ROS: one episode's memory, sentence and plans.

    reset(instruction) -> epoch              forget the history and every pending plan
    set_instruction(text) -> instruction id  takes effect at the next plan; the visual history stays valid
    observe(canvas, state)                   encode the newest real frame; older ones go into the ring
    courses.add(course)                      hear what the executor makes of the plans
    plan() -> Plan                           imagine, predict the value map, decode a chunk

Planning ahead while a chunk runs: what is observed between `branch` and `drop` is only supposed.

    session.branch()
    session.observe(*session.foreseen(plan))   the frame that the plan imagines, and where it means the joints to be
    ahead = session.plan()
    session.drop()                             as if nothing had been supposed; the next real frame goes on from here

Shapes: K chunk steps, J joints, U actions a history slot, E events, V views.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace

import numpy as np

from starry_ros.errors import ContractError, InputError
from starry_ros.robot_spec import RobotSpec
from starry_ros.timing import nanoseconds
from starry_ros.types import F32, F64, ActionChunk, Canvas, LandingPoint, Plan, RobotState, ValueMap
from starry_ros.wam.course import Courses
from starry_ros.wam.gasam import Scene, scene_arrays
from starry_ros.wam.normalise import NormStats
from starry_ros.wam.pace import Pace
from starry_ros.wam.runtimes.base import WHOLE_PLAN, Effort, Noise, Prediction, Runtime
from starry_ros.wam.surprise import Dream
from starry_ros.wam.text import TextEncoder


@dataclass(frozen=True)
class SessionConfig:
    """`seed` starts the noise of every epoch; `imagine` decodes the imagined frame (costs a decoder pass).

    `temperature` scales the noise that the actions start from: 0 gives the plan in the middle of the likely ones, 1
    draws plans as the demonstrations vary.
    """

    seed: int = 0
    temperature: float = 0.0
    imagine: bool = False
    min_spacing_steps: int = 4


@dataclass(frozen=True)
class _Moment:
    """How far an epoch has come: its first and newest observation, that one's joints and place on the grid of steps,
    the newest chunk, and how many plans were made. A branch returns to it.
    """

    origin_ns: int | None = None
    stamp_ns: int | None = None
    state: RobotState | None = None
    step: int = 0
    last: ActionChunk | None = None
    plans: int = 0


class Session:
    """Plans for one robot with one runtime. Not thread-safe: one thread calls it."""

    def __init__(
        self, runtime: Runtime, stats: NormStats, texts: TextEncoder, spec: RobotSpec, layout_hash: str,
        config: SessionConfig = SessionConfig(),
    ) -> None:
        self.runtime, self.spec, self.config = runtime, spec, config
        self._stats, self._texts, self._layout_hash = stats, texts, layout_hash
        self._step_ns = nanoseconds(spec.action.step_s)
        self._grid = max(1, runtime.config.frame_steps)
        self._spacing = runtime.config.frame_steps or config.min_spacing_steps
        self._lower, self._upper = spec.limit("lower"), spec.limit("upper")
        self._pace = Pace(spec)
        self.courses = Courses()
        self.executed_UJ: F64 | None = None
        self.epoch = 0
        self.instruction = ""
        self.instruction_id = 0
        self._chunk_id = 0
        self.dream: Dream | None = None
        self._at = _Moment()
        self._branches: list[_Moment] = []

    def reset(self, instruction: str) -> int:
        """Start an episode; returns the new epoch. Raises InputError on an unusable sentence and changes nothing."""
        self.set_instruction(instruction)
        self.runtime.reset()
        self.courses.forget()
        self._at, self._branches = _Moment(), []
        self.epoch += 1
        return self.epoch

    def set_instruction(self, text: str) -> int:
        """Swap the sentence; returns the new instruction id. Raises InputError and keeps the old one if unusable."""
        embedding = self._texts.encode(text)
        self.runtime.set_text(embedding.tokens_TD, embedding.mask_T.astype(np.float32))
        self.instruction = text
        self.instruction_id += 1
        return self.instruction_id

    def observe(
        self, canvas: Canvas, state: RobotState, scene: Scene | None = None, executed_UJ: F64 | None = None
    ) -> None:
        """Take the newest frame and joint state. Frames must come in order of time; a refused one changes nothing.

        A model with geometry-aware attention also needs the frame's scene. A model that reads video at a fixed rate
        takes the first frame of every instant of its grid and leaves out the others. `executed_UJ`, if given, is what
        was commanded since the frame that now becomes history; otherwise that is what the courses say, or the plans
        where no executor tells its course. `self.executed_UJ` keeps it, None when no frame became history.
        """
        self._check(canvas, state)
        self.executed_UJ = None
        now = self._at
        origin_ns = canvas.stamp_ns if now.origin_ns is None else now.origin_ns
        step = self._grid * round((canvas.stamp_ns - origin_ns) / (self._grid * self._step_ns))
        if now.stamp_ns is not None:
            if self.reads_video and step == now.step:
                return
            if step - now.step >= self._spacing:
                self._commit(step, executed_UJ)
        self.runtime.observe(canvas.image_HWC, step)
        if scene is not None:
            self.runtime.look(scene_arrays(scene))
        self._at = replace(now, origin_ns=origin_ns, stamp_ns=canvas.stamp_ns, state=state, step=step)

    def _check(self, canvas: Canvas, state: RobotState) -> None:
        if canvas.layout_hash != self._layout_hash:
            raise ContractError("canvas", "has another layout than the model", got=canvas.layout_hash,
                                expected=self._layout_hash, fix="run the packer with the model's robot contract")
        if self._at.stamp_ns is not None and canvas.stamp_ns <= self._at.stamp_ns:
            raise InputError("canvas", "is not newer than the last one", got=canvas.stamp_ns,
                             expected=f"> {self._at.stamp_ns}")
        size = (self.runtime.config.canvas_height_px, self.runtime.config.canvas_width_px, 3)
        if canvas.image_HWC.shape != size:
            raise InputError("canvas", "has the wrong size", got=canvas.image_HWC.shape, expected=size)
        if state.position_J.shape != self._lower.shape or not np.isfinite(state.position_J).all():
            raise InputError("joint state", "is not finite or of the wrong length", got=state.position_J,
                             expected=f"{len(self._lower)} finite positions")

    @property
    def newest_ns(self) -> int | None:
        """Stamp of the newest observation of this epoch, also where plans still start from an older one."""
        return self._at.stamp_ns

    @property
    def observed_ns(self) -> int | None:
        """Stamp of the newest observation of this epoch that a plan starts from."""
        newest_ns = self._at.stamp_ns
        return None if newest_ns is None else newest_ns - self.runtime.lag_steps * self._step_ns

    @property
    def spacing_s(self) -> float:
        """Time between two frames of the history. Frames that come more often serve plans alone."""
        return self._spacing * self.spec.action.step_s

    @property
    def reads_video(self) -> bool:
        """Whether every frame of the grid is wanted, also those that came while a plan was made."""
        return self.runtime.config.frame_steps > 0

    def in_model_units(self, positions_DJ: F64) -> F32:
        """The first steps of a chunk in model units."""
        assert self._at.state is not None
        missing = self.runtime.config.chunk_steps - len(positions_DJ)
        whole = np.concatenate((positions_DJ, np.repeat(positions_DJ[-1:], missing, axis=0)))
        model_KJ = self._stats.actions_to_model(whole, self._at.state.position_J)
        return model_KJ[: len(positions_DJ)].astype(np.float32)

    def supposing(self, positions_DJ: F64) -> AbstractContextManager[None]:
        """Within this context, plans know that these positions will be commanded in the next D steps."""
        size = self.runtime.config.history_actions, self.runtime.config.joints
        actions, valid = np.zeros(size, np.float32), np.zeros(size[0], np.float32)
        actions[: len(positions_DJ)] = self._stats.state_to_model(positions_DJ[: size[0]])
        valid[: len(positions_DJ)] = 1.0
        return self.runtime.supposing(actions, valid)

    def plan(
        self, effort: Effort = WHOLE_PLAN, shape: Callable[[F64], F64] | None = None, committed: int = 0
    ) -> Plan:
        """Plan from the newest observation; `shape` may change the chunk's positions before it is named.

        The first `committed` positions that it returns stay exactly as they are.
        Raises InputError before the first observation or sentence.
        """
        state = self._at.state
        if state is None:
            raise InputError("plan", "nothing has been observed yet", fix="call observe first")
        if not self.instruction:
            raise InputError("plan", "there is no instruction", fix="call reset or set_instruction first")
        start = time.monotonic()
        noise = self._noise()
        state_J = self._stats.state_to_model(state.position_J).astype(np.float32)
        prediction = self.runtime.predict(noise, state_J, effort)
        positions_KJ = self._stats.actions_from_model(prediction.actions_KJ, state.position_J)
        chunk = self._chunk(positions_KJ if shape is None else shape(positions_KJ), committed)
        imagined = self.runtime.decode(prediction.latents) if self.config.imagine else None
        ahead_ns = self.runtime.config.future_steps * self._step_ns
        self.dream = Dream(chunk.observation_ns + ahead_ns, self.runtime.latents(), prediction.latents[0])
        timing = {**prediction.seconds, "total": time.monotonic() - start}
        return Plan(chunk, self._value_map(prediction), imagined, timing)

    def branch(self) -> None:
        """What is observed and planned from now on is supposed, until `drop` or `accept`. Branches nest.

        Ids of chunks and instructions go on counting, so that no two plans share one.
        """
        self.runtime.branch()
        self._branches.append(self._at)

    def drop(self) -> None:
        """Return to the state at the last `branch`; the next plan is the one it would have been. InputError if none."""
        self.runtime.drop()
        self._at = self._branches.pop()

    def accept(self) -> None:
        """Let what came since the last `branch` stand. InputError if none is open."""
        self.runtime.accept()
        self._branches.pop()

    def foreseen(self, plan: Plan) -> tuple[Canvas, RobotState]:
        """What a plan expects `future_steps` after its observation: the imagined frame, and the joints of its chunk.

        Raises InputError on a plan without an imagined frame.
        """
        if plan.imagined_HWC is None:
            raise InputError("plan", "holds no imagined frame", fix="open the session with SessionConfig(imagine=True)")
        chunk, steps = plan.chunk, self.runtime.config.future_steps
        stamp_ns = chunk.observation_ns + steps * self._step_ns
        index = min(round((stamp_ns - chunk.start_ns) / chunk.step_ns), len(chunk.positions_KJ) - 1)
        position_J = chunk.positions_KJ[index]
        velocity_J = (position_J - chunk.positions_KJ[max(0, index - 1)]) / (chunk.step_ns * 1e-9)
        return Canvas(stamp_ns, self._layout_hash, plan.imagined_HWC, ()), RobotState(stamp_ns, position_J, velocity_J)

    def _noise(self) -> Noise:
        """Noise of this plan: a function of seed, epoch and the number of plans since reset."""
        c = self.runtime.config
        rng = np.random.default_rng([self.config.seed, self.epoch, self._at.plans])
        self._at = replace(self._at, plans=self._at.plans + 1)

        def draw(*shape: int) -> F32:
            return rng.standard_normal((1, *shape), dtype=np.float32)

        value = draw(c.frame_tokens, c.value_token_width)
        if c.value_start == "black":
            value = np.full_like(value, -1.0)
        return Noise(draw(c.frame_tokens, c.latent_token_width), value,
                     self.config.temperature * draw(c.chunk_steps, c.joints))

    def _chunk(self, positions_KJ: F64, committed: int) -> ActionChunk:
        positions = self._pace.of_arms(np.clip(positions_KJ, self._lower, self._upper), committed)
        if self.runtime.config.snap_grippers:
            self._pace.snap_jaws(positions, committed)
        observed_ns = self.observed_ns
        assert observed_ns is not None
        self._chunk_id += 1
        chunk = ActionChunk(
            chunk_id=self._chunk_id, epoch=self.epoch, instruction_id=self.instruction_id,
            observation_ns=observed_ns, start_ns=observed_ns + self._step_ns, step_ns=self._step_ns,
            joint_names=self.spec.joint_names,
            positions_KJ=positions, contract_hash=self.spec.content_hash,
        )
        self._at = replace(self._at, last=chunk)
        return chunk

    def _commit(self, step: int, executed_UJ: F64 | None) -> None:
        """Put the current frame into the ring with the actions commanded between it and the frame at `step`."""
        c, stamp_ns = self.runtime.config, self._at.stamp_ns
        assert stamp_ns is not None
        if executed_UJ is None:
            times_ns = (stamp_ns + (i + 1) * self._step_ns for i in range(min(step - self._at.step, c.history_actions)))
            executed_UJ = np.stack([self._commanded(time_ns) for time_ns in times_ns])
        self.executed_UJ = executed_UJ
        actions, valid = np.zeros((c.history_actions, c.joints)), np.zeros(c.history_actions, np.float32)
        actions[: len(executed_UJ)], valid[: len(executed_UJ)] = executed_UJ, 1.0
        self.runtime.commit(self._stats.state_to_model(actions).astype(np.float32), valid)

    def _commanded(self, time_ns: int) -> F64:
        """What was commanded at a time, or asked for by the newest chunk; the measured state where there is neither."""
        state, last = self._at.state, self._at.last
        assert state is not None
        if (told_J := self.courses.at(time_ns)) is not None:
            return told_J
        if last is None or time_ns < last.start_ns or self.courses.awaited:
            return state.position_J
        index = min(round((time_ns - last.start_ns) / last.step_ns), len(last.positions_KJ) - 1)
        commanded: F64 = last.positions_KJ[index]
        return commanded

    def _value_map(self, prediction: Prediction) -> ValueMap:
        config = self.runtime.config
        landing = tuple(
            LandingPoint(
                camera=view.camera, event=event,
                u_px=view.x_px + float(prediction.landing_EV2[event, i, 0]) * view.width_px - 0.5,
                v_px=view.y_px + float(prediction.landing_EV2[event, i, 1]) * view.height_px - 0.5,
                confidence=float(prediction.seen_EV[event, i]),
            )
            for event in range(config.value_events) for i, view in enumerate(config.views)
        )
        observed_ns = self.observed_ns
        assert observed_ns is not None
        return ValueMap(observed_ns, self._layout_hash, config.value_stride_px, prediction.map_EYX, landing)
