"""The stage of `starry chaos`: a running graph, the means to disturb it, and what it says about itself."""

from __future__ import annotations

import contextlib
import copy
import os
import resource
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from std_msgs.msg import Bool

from starry_ros.msg import ActionChunk, ExecutorStatus, WorldActionStatus
from starry_ros.robot_spec import RobotSpec
from starry_ros.ros.chaos_faults import DISK_FULL
from starry_ros.ros.chaos_judge import RESTING_RAD_S, Failed, Witness
from starry_ros.ros.chaos_messages import NOT_OURS
from starry_ros.ros.flood import ALONE, Strangers
from starry_ros.ros.picture_relay import PictureRelay
from starry_ros.ros.qos import PLAN, SAFETY, STATE
from starry_ros.ros.relay import PLAN_TOPIC, ArmRelays, MakeFault
from starry_ros.ros.running_graph import RunningGraph
from starry_ros.ros.up import Supervisor

MOVING_RAD_S = 0.15
RESTING_FOR_S = 0.3
READY_S, RESUME_S, REPLY_S, END_S, HEARD_S = 300.0, 60.0, 3.0, 5.0, 15.0
MALFORMED = "malformed"
CAMERAS = "sim_camera_process"
"""In the command line of the process that renders for the simulated robot."""
SETTLE_S = 0.5
"""Until an executor has heard where a new episode has put the arms."""


class Theatre(RunningGraph):
    """The running graph and the means to disturb it; the `Stage` of the faults."""

    def __init__(
        self, spec: RobotSpec, supervisor: Supervisor, stopped: Callable[[], bool], pictures: PictureRelay
    ) -> None:
        super().__init__(spec, supervisor, stopped)
        self.relays, self._pictures = ArmRelays(spec), pictures
        self._chunks = self.operator.create_publisher(ActionChunk, PLAN_TOPIC, PLAN)
        self._estops = self.operator.create_publisher(Bool, "estop", SAFETY)
        self.operator.create_subscription(ExecutorStatus, "executor_status", self._on_status, STATE)
        self.operator.create_subscription(WorldActionStatus, "world_action_status", self._on_session, STATE)
        self.run, self._seed, self._instruction = 0, 0, ""
        self._strangers: Strangers | None = None
        self.look_away()

    def look_away(self) -> None:
        """Forget what was heard: a scenario begins."""
        self.since_s, self.looked_away_s = self.relays.newest_s, self.relays.now_s()
        self.reasons, self.rungs, self.notes = set[str](), set[str](), list[str]()
        self.refused_before, self.accepted_before = self.refused(), int(self.operator.heard.executor.accepted)
        self.offered, self.followed_ours, self._delay_s = 0, False, 0.0

    def _on_status(self, message: ExecutorStatus) -> None:
        self.reasons |= {message.reason, *message.conditions}
        self.followed_ours |= message.chunk_id >= NOT_OURS
        self._delay_s = max(self._delay_s, message.delay_s)

    def _on_session(self, message: WorldActionStatus) -> None:
        self.rungs.add(message.rung)

    # What faults use

    def spoil(self, topic: str, make: MakeFault | None) -> None:
        if topic in self._pictures.topics:
            self._pictures.spoil(topic, make)
        else:
            self.relays.spoil(topic, make)

    def send(self, node: str, number: signal.Signals) -> None:
        self.supervisor.children[node].send(number)

    def start(self, node: str) -> None:
        """Start a node that was killed; what it said before counts no more."""
        with contextlib.suppress(Failed):  # a busy machine takes a while to end a process
            self.until(lambda: not self.supervisor.children[node].running, END_S, f"the end of {node}")
        if self.supervisor.children[node].running:
            return
        heard = self.operator.heard
        if node == "world_action":
            heard.session = WorldActionStatus()
        elif node == "action_executor":
            heard.executor = ExecutorStatus()
        heard.diagnosed.pop(node, None)
        self.supervisor.start(node)

    def estop(self, pressed: bool) -> None:
        self._estops.publish(Bool(data=pressed))

    def restart(self, node: str) -> None:
        self.send(node, signal.SIGTERM)
        self.until(lambda: not self.supervisor.children[node].running, RESUME_S, f"the end of {node}")
        self.start(node)

    def kill_cameras(self) -> None:
        pid = self.supervisor.children["sim_robot"].pid
        found = [int(child) for thread in Path(f"/proc/{pid}/task").glob("*/children")
                 for child in thread.read_text().split() if CAMERAS in Path(f"/proc/{child}/cmdline").read_text()]
        if not found:
            raise Failed("the simulated robot has no process of its cameras")
        os.kill(found[0], signal.SIGKILL)

    def note(self, text: str) -> None:
        self.notes.append(text)

    def chunk(self) -> ActionChunk:
        if self.relays.plan is None:
            raise Failed("there was no plan")
        return copy.deepcopy(self.relays.plan)

    def offer(self, chunk: ActionChunk) -> None:
        self._chunks.publish(chunk)
        self.offered += 1

    def load_strangers(self) -> None:
        self.send_strangers_away()
        self._strangers = strangers = Strangers()
        self.until(lambda: strangers.loaded, READY_S, "the strangers of the flood")

    def flood(self, duration_s: float) -> None:
        strangers = self._strangers
        if strangers is None:
            raise Failed("no strangers were loaded")
        strangers.flood(HEARD_S + duration_s)
        try:
            self.until(lambda: self._flooded() or strangers.ended is not None, HEARD_S, "the flood, by the executor")
            self.wait(duration_s)
            if strangers.ended is not None:
                why = "they did not find all whom they flood" if strangers.ended == ALONE else "see above"
                raise Failed(f"the strangers ended too early, with exit code {strangers.ended}: {why}")
        finally:
            self.send_strangers_away()

    def send_strangers_away(self) -> None:
        if self._strangers is not None:
            self._strangers.leave()
        self._strangers = None

    def _flooded(self) -> bool:
        """Plans of a flood are no plans: they count once the executor has discovered who sends them."""
        return self.refused().get(MALFORMED, 0) > self.refused_before.get(MALFORMED, 0)

    def during(self, duration_s: float, act: Callable[[], None], every_s: float) -> None:
        end_s = time.monotonic() + duration_s
        while time.monotonic() < end_s:
            act()
            self.wait(every_s)

    def fill_disk(self) -> None:
        pid = self.supervisor.children["recorder"].pid
        if pid is None:
            raise Failed("the recorder does not run")
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (1, resource.RLIM_INFINITY))

    # What the judge uses

    def too_late(self, what: str) -> Exception:
        session, executor = self.operator.heard.session, self.operator.heard.executor
        return Failed(f"{what}; executor {self.mode} {self.reason}, accepted {executor.accepted}, "
                      f"refused {self.refused()}, "
                      f"planner {session.state} {session.reason}")

    def refused(self) -> dict[str, int]:
        """How many chunks the executor has refused, by reason."""
        executor = self.operator.heard.executor
        return dict(zip(executor.refused_reasons, executor.refused_counts, strict=True))

    def witness(self) -> Witness:
        """What was heard since the fault."""
        return self.witness_since(self.since_s)

    def witness_since(self, since_s: float) -> Witness:
        """What was heard since a joint state."""
        relays = self.relays
        plans = [plan for plan in list(relays.plans) if plan.end_s > since_s]
        return Witness(
            self.spec, since_s, relays.since(since_s), relays.asked_since(since_s), relays.pushed_since(since_s), plans,
            list(relays.look_aheads), self._delay_s,
        )

    def diagnosed(self, node: str) -> str:
        """What a node says of itself."""
        return self.operator.heard.diagnosed.get(node, "")

    def _recording(self) -> bool:
        """A recorder that runs, and whose disk takes what it writes."""
        said = self.diagnosed("recorder")
        return bool(said) and not said.startswith(DISK_FULL)

    def moving(self) -> bool:
        """Whether the arms follow a plan and move."""
        _, _, velocity = self.relays.since(self.relays.newest_s - 0.15)
        fast = bool(len(velocity)) and float(np.abs(velocity[-1]).max()) > MOVING_RAD_S
        return fast and self.mode in ("RUN", "SLOW") and self.reason != "no_chunk"

    def resting(self) -> bool:
        """Whether the arms have stood still for a moment."""
        _, _, velocity = self.relays.since(self.relays.newest_s - RESTING_FOR_S)
        return bool(len(velocity)) and float(np.abs(velocity).max()) < RESTING_RAD_S

    def in_motion(self) -> None:
        """A fresh episode, armed, in motion. What the scenario before has left behind gets the time to come back."""
        operator = self.operator
        self.until_ready(READY_S)
        if "recorder" in self.supervisor.children:
            self.until(self._recording, READY_S, "the recorder")
        self.call(operator.trigger("stop"), "stop")
        self.until(self.resting, RESUME_S, "rest")
        self._seed += 1
        reply = self.call(operator.reset_episode("place_block_pad", "easy", self._seed), "reset_episode")
        self.wait(SETTLE_S)
        self._instruction = reply.instruction
        self.call(operator.reset_session(reply.instruction), "reset_session")
        self.arm()
        self.until(self.moving, RESUME_S, "motion")
        self.wait(0.2)
        self.until(self.moving, RESUME_S, "motion")

    def arm(self) -> float:
        """Reset a fault if there is one, and arm; how long it took."""
        answers = ["no answer"]

        def armed() -> bool:
            try:
                if self.mode == "FAULT":
                    self.call(self.operator.trigger("reset_fault"), "reset_fault", REPLY_S)
                reply = self.call(self.operator.trigger("arm"), "arm", REPLY_S)
            except Failed:  # calls may go to a process that was killed, until its lease ends
                return False
            answers.append(reply.message)
            return bool(reply.success)

        try:
            return self.until(armed, RESUME_S, "arm")
        except Failed as problem:
            raise Failed(f"{problem}; {answers[-1]}") from problem

    def plan_again(self) -> None:
        """Wait for a new plan; a planner that was started anew is told its sentence again."""
        before = self.operator.heard.session.plans

        def planned() -> bool:
            session = self.operator.heard.session
            if session.reason == "no_instruction":
                with contextlib.suppress(Failed):
                    self.call(self.operator.reset_session(self._instruction), "reset_session", REPLY_S)
            return session.plans not in (0, before)

        self.until(planned, READY_S, "a plan")
