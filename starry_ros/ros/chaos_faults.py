"""The faults of `starry chaos`: what is done to a running graph, what the arms must do, and how things go on.

A scenario's verdict comes from the simulated robot's own joint states; reasons are read only to say that they are told.
"""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np
from sensor_msgs.msg import Image, JointState
from trajectory_msgs.msg import JointTrajectory

from starry_ros.canvas.repeats import moved
from starry_ros.kinematics.mounts import shown_joints
from starry_ros.msg import ActionChunk
from starry_ros.robot_spec import RobotSpec
from starry_ros.ros import chaos_messages as change
from starry_ros.ros.relay import PLAN_TOPIC, MakeFault

GOES_ON, RESTS, GONE = "goes_on", "rests", "gone"
FAULT, PLAN_END, LOOK_AHEAD_END = "the fault", "the last plan", "the last look-ahead"
"""What a deadline counts from."""
REST_AFTER_END_S = 0.3
"""After the end of the last plan, or of the last look-ahead, as heard on their way."""
REST_AFTER_STOP_S = 0.8
"""From what stops the arms at once: up to 0.4 s of braking from full speed, 0.1 s on the way and in the drives, and as
much again where a stop that would swing across a border waits for one that fits."""
REST_AFTER_WATCH_S = 1.2
"""Where a watch of 0.15 to 0.4 s comes before that."""
REST_AT_LAST_S = 4.0
"""However long plans go on arriving: a camera's greatest age, 1.6 s of the last plan, and what limits add to it."""
LASTS_S = 3.0
"""For so long at least a fault that arms go on in is on: a second longer than plans from before it may move them."""
CLOCK_JUMP_S = 5.0
CAMERAS_END_S = 0.4
"""Until the simulated robot has ended for a death of its cameras: Linux frees their memory before it says so."""
SPELLS, SPELL_S, TURN_S, MOST_SLOWER = 8, 1.0, 0.1, 5.0
"""How many spells a slow planner has, how long each is, how long its turns are, and how much slower it is at most."""
DISK_FULL = "disk"
"""How the recorder's diagnostics begin then."""
BLIND = ("no_observation", "canvas_incomplete", "canvas_stale")


class Stage(Protocol):
    """What a fault may use of the running graph."""

    spec: RobotSpec
    run: int
    """How many times the scenario was played before."""

    def spoil(self, topic: str, make: MakeFault | None) -> None:
        """Put a fault on a relayed topic, or take it away."""

    def send(self, node: str, number: signal.Signals) -> None:
        """Send a signal to a node's process."""

    def start(self, node: str) -> None:
        """Start a node that was killed."""

    def restart(self, node: str) -> None:
        """End a node and start it again."""

    def kill_cameras(self) -> None:
        """Kill the process of the simulated robot's cameras, which is a node and no child of ours."""

    def estop(self, pressed: bool) -> None:
        """Press or release the emergency stop."""

    def chunk(self) -> ActionChunk:
        """The newest plan of the planner."""

    def note(self, text: str) -> None:
        """Tell in the report what chance has chosen or led to."""

    def offer(self, chunk: ActionChunk) -> None:
        """Publish a plan of our own."""

    def load_strangers(self) -> None:
        """Start the process that floods, and wait until it can."""

    def flood(self, duration_s: float) -> None:
        """Let it publish garbage on the graph's topics."""

    def send_strangers_away(self) -> None:
        """End it."""

    def during(self, duration_s: float, act: Callable[[], None], every_s: float) -> None:
        """Do something again and again while the graph runs."""

    def fill_disk(self) -> None:
        """Let the recorder's next writes fail."""


@dataclass(frozen=True)
class Scenario:
    """`outcome`: the arms go on, or rest in time, or are gone, and the executor stops for them. One of the reason codes
    `told` must be published; `stopped_by` is the executor's own word on why it stands in STOP or FAULT at last.

    Rest is due `within_s` after the fault, or sooner where it `counts_from` the end of the last plan or look-ahead.
    `latched`: the arms must stay at rest after the fault has gone until the services reset and arm are called.
    `commands_lost`: commands do not arrive, or late, so that controllers ask for a step when the next one comes. Where
    joint states are late as well nobody can know of it, and it is the driver's own limits that hold the arms: what
    counts is what they did. `diagnosed`: a node, and what its diagnostics must begin with. `starves`: the planner may
    get no turn while the fault is on, so that arms may rest for a while and must go on afterwards. `waits`: plans may
    come so late that arms stand for the executor's patience; they must then wait for `arm`, and go on after it.
    `ends_s`: how long a robot that will be gone may take to end.
    `prepare` comes before the arms move. `arguments.SCENARIOS` says in words what each does.
    """

    outcome: str
    inject: Callable[[Stage], None]
    clear: Callable[[Stage], None] = lambda _: None
    within_s: float = REST_AT_LAST_S
    counts_from: str = FAULT
    told: tuple[str, ...] = ()
    stopped_by: tuple[str, ...] = ()
    latched: bool = False
    commands_lost: bool = False
    starves: bool = False
    diagnosed: tuple[str, str] | None = None
    ends_s: float = 0.0
    prepare: Callable[[Stage], None] = lambda _: None
    waits: bool = False


def _camera(make: MakeFault) -> dict[str, Any]:
    """On another camera in every run."""
    def put(stage: Stage, fault: MakeFault | None) -> None:
        cameras = stage.spec.cameras
        stage.spoil(cameras[stage.run % len(cameras)].topic, fault)

    return {"inject": lambda stage: put(stage, make), "clear": lambda stage: put(stage, None)}


def _blind(make: MakeFault) -> Scenario:
    """No further plan is made: the arms finish the last one, and nobody expects them to move any more."""
    return _unplanned(**_camera(make), told=BLIND)


def _repeat(stage: Stage) -> None:
    """On another camera in every run, of those that must show what the arms are about to do: others may repeat."""
    chunk, spec, shows = stage.chunk(), stage.spec, shown_joints(stage.spec)
    order = [chunk.joint_names.index(name) for name in spec.joint_names]
    plan_KJ = np.reshape(chunk.positions, (-1, len(order)))[:, order]
    telling = [camera for camera in spec.cameras if moved(shows[camera.name], plan_KJ[0], plan_KJ[-1])]
    cameras = telling or spec.cameras
    stage.spoil(cameras[stage.run % len(cameras)].topic, change.repeated)


def _all_good(stage: Stage) -> None:
    """No camera's pictures are changed any more."""
    for camera in stage.spec.cameras:
        stage.spoil(camera.topic, None)


def _unplanned(**how: Any) -> Scenario:
    return Scenario(RESTS, counts_from=PLAN_END, stopped_by=("planner_lost",), latched=True, **how)


def _joints(make: MakeFault, reason: str, within_s: float = REST_AFTER_WATCH_S) -> Scenario:
    return Scenario(
        RESTS, lambda stage: stage.spoil(stage.spec.joint_state_topic, make),
        lambda stage: stage.spoil(stage.spec.joint_state_topic, None), within_s, stopped_by=(reason,), latched=True,
    )


def _commands(make: MakeFault | None) -> Callable[[Stage], None]:
    def put(stage: Stage) -> None:
        for arm in stage.spec.arms:
            stage.spoil(arm.command_topic, make)

    return put


def _stutter(stage: Stage) -> None:
    """The driver refuses commands for a moment, takes them again, and so on."""
    _commands(change.refused_at_times)(stage)
    stage.during(LASTS_S, lambda: None, 0.1)
    _commands(None)(stage)


def _chunks(edit: Callable[[ActionChunk], None], *told: str) -> Scenario:
    """The newest plan, changed, 20 times a second."""
    def inject(stage: Stage) -> None:
        def once() -> None:
            chunk = stage.chunk()
            edit(chunk)
            stage.offer(chunk)

        stage.during(LASTS_S, once, 0.05)

    return Scenario(GOES_ON, inject, told=told)


def _swap_plans(stage: Stage) -> None:
    """Every plan is overtaken by the next one, on its way to the executor."""
    stage.spoil(PLAN_TOPIC, change.reordered)
    stage.during(4.0, lambda: None, 0.1)
    stage.spoil(PLAN_TOPIC, None)


def _clock_jump(by_s: float) -> Scenario:
    """The nodes' clock jumps against the robot's: its stamps look older to them, and theirs look newer to it."""
    def shift(stage: Stage, robot_s: float, nodes_s: float) -> None:
        sensors = {stage.spec.joint_state_topic: JointState, **{camera.topic: Image for camera in stage.spec.cameras}}
        for topic, kind in sensors.items():
            stage.spoil(topic, change.shifted(kind, robot_s) if robot_s else None)
        for arm in stage.spec.arms:
            stage.spoil(arm.command_topic, change.shifted(JointTrajectory, nodes_s) if nodes_s else None)

    return Scenario(
        RESTS, lambda stage: shift(stage, -by_s, by_s), lambda stage: shift(stage, 0.0, 0.0),
        REST_AFTER_STOP_S, stopped_by=("clock_jump",), latched=True,
    )


def _killed(node: str, **how: Any) -> dict[str, Any]:
    return {"inject": _signal(node, signal.SIGKILL), "clear": lambda stage: stage.start(node), **how}


def _signal(node: str, number: signal.Signals) -> Callable[[Stage], None]:
    return lambda stage: stage.send(node, number)


def _slow_planner(stage: Stage) -> None:
    """Slower by a random factor, another one in every spell, others in every run: frozen for a part of every turn."""
    rng = random.Random(stage.run)

    def freeze(frozen_s: float) -> None:
        stage.send("world_action", signal.SIGSTOP)
        time.sleep(frozen_s)
        stage.send("world_action", signal.SIGCONT)

    for _ in range(SPELLS):
        factor = rng.uniform(1.0, MOST_SLOWER)
        stage.note(f"{factor:.1f}")
        frozen_s = (1.0 - 1.0 / factor) * TURN_S
        stage.during(SPELL_S, partial(freeze, frozen_s), TURN_S - frozen_s)


def _frozen_for_two_seconds(stage: Stage) -> None:
    """The arms must rest by themselves, and the executor must not go on where it was."""
    stage.send("action_executor", signal.SIGSTOP)
    time.sleep(2.0)
    stage.send("action_executor", signal.SIGCONT)


SCENARIOS: dict[str, Scenario] = {
    "camera_frozen": _blind(change.frozen),
    "camera_repeats": _unplanned(inject=_repeat, clear=_all_good, told=BLIND),
    "camera_dropped": _blind(change.dropped),
    "camera_reordered": Scenario(GOES_ON, **_camera(change.reordered)),
    "camera_skewed": _blind(change.edited(Image, change.skew)),
    "camera_corrupt": _blind(change.edited(Image, change.truncate)),
    "camera_wrong_size": _blind(change.edited(Image, change.shrink)),
    "joints_stale": _joints(change.dropped, "joint_state_stale"),
    "joints_nan": _joints(change.edited(JointState, change.not_a_number), "joint_state_invalid", REST_AFTER_STOP_S),
    "joints_jump": _joints(change.edited(JointState, change.jump), "tracking_error"),
    "chunks_late": _chunks(change.late, "before_arm", "out_of_order", "old_observation"),
    "chunks_duplicate": _chunks(lambda _: None, "duplicate"),
    "chunks_reordered": Scenario(GOES_ON, _swap_plans, told=("out_of_order",)),
    "chunks_old_epoch": _chunks(change.old_epoch, "stale_epoch"),
    "chunks_foreign": _chunks(change.foreign, "foreign_contract"),
    "chunks_nan": _chunks(change.not_finite, "not_finite"),
    "planner_slow": Scenario(GOES_ON, _slow_planner, waits=True),
    "planner_hung": _unplanned(
        inject=_signal("world_action", signal.SIGSTOP), clear=_signal("world_action", signal.SIGCONT)),
    "planner_killed": _unplanned(**_killed("world_action")),
    "packer_killed": _unplanned(**_killed("canvas_packer"), told=BLIND),
    "executor_killed": Scenario(RESTS, **_killed("action_executor"), counts_from=LOOK_AHEAD_END, latched=True),
    "executor_frozen": Scenario(RESTS, _frozen_for_two_seconds, counts_from=LOOK_AHEAD_END, latched=True,
                                stopped_by=("clock_jump", "joint_state_stale")),
    "visualiser_killed": Scenario(GOES_ON, **_killed("value_map_visualizer")),
    "recorder_killed": Scenario(GOES_ON, **_killed("recorder")),
    "sim_robot_killed": Scenario(GONE, **_killed("sim_robot"), within_s=REST_AFTER_WATCH_S,
                                 stopped_by=("joint_state_stale",), latched=True),
    "sim_cameras_killed": Scenario(
        GONE, lambda stage: stage.kill_cameras(), lambda stage: stage.start("sim_robot"),
        CAMERAS_END_S + REST_AFTER_WATCH_S, stopped_by=("joint_state_stale",), latched=True, ends_s=CAMERAS_END_S),
    "driver_rejects": Scenario(
        RESTS, _commands(change.edited(JointTrajectory, change.never_at_rest)), _commands(None), REST_AFTER_STOP_S,
        stopped_by=("tracking_error",), latched=True),
    "driver_stutters": Scenario(GOES_ON, _stutter, commands_lost=True),
    "clock_jump": _clock_jump(CLOCK_JUMP_S),
    "clock_jump_back": _clock_jump(-CLOCK_JUMP_S),
    "dds_flood": Scenario(GOES_ON, lambda stage: stage.flood(2.0), lambda stage: stage.send_strangers_away(),
                          told=("malformed",), commands_lost=True, starves=True,
                          prepare=lambda stage: stage.load_strangers()),
    "disk_full": Scenario(GOES_ON, lambda stage: stage.fill_disk(), lambda stage: stage.restart("recorder"),
                          diagnosed=("recorder", DISK_FULL)),
    "estop": Scenario(RESTS, lambda stage: stage.estop(True), lambda stage: stage.estop(False), REST_AFTER_STOP_S,
                      stopped_by=("estop_pressed",), latched=True),
}
RECORDED = ("recorder_killed", "dds_flood", "disk_full")
"""Scenarios that need a recorder: on some topics of a flood nobody else listens."""
