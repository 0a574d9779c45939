"""Node `sim_robot`: the simulated robot, on the topics of a real one.

One thread owns physics and keeps pace with real time, at a real-time priority where the system grants it, as drivers
under ros2_control have one; cameras are a process of their own. In: one trajectory topic an arm, under the rules of
joint_trajectory_controller. Out: cameras with calibration, joint states, `/clock`, and under `ground_truth/` what only
a simulation knows. Service `reset_episode` lays the scene out anew.
"""

from __future__ import annotations

import queue
import time
from functools import partial

import numpy as np
from builtin_interfaces.msg import Time
from rosgraph_msgs.msg import Clock as ClockMsg
from sensor_msgs.msg import JointState
from std_msgs.msg import Bool, Float64MultiArray, String
from trajectory_msgs.msg import JointTrajectory
from visualization_msgs.msg import Marker, MarkerArray

from starry_ros.errors import StarryError
from starry_ros.paths import robot_file
from starry_ros.robot_spec import load_robot_spec
from starry_ros.ros.convert import EdgeClock, stamp_ns, state_message, trajectory_of
from starry_ros.ros.diagnostics import OK, WARN, Diagnostics, Health
from starry_ros.ros.frames import FramePublisher
from starry_ros.ros.markers import cube_marker
from starry_ros.ros.params import ROBOT, Parameter, declare
from starry_ros.ros.priority import hear_first
from starry_ros.ros.qos import CLOCK, COMMAND, LATCHED, STATE
from starry_ros.ros.rates import Every
from starry_ros.ros.run import StarryNode, run
from starry_ros.ros.sim_cameras import Cameras, Instant
from starry_ros.ros.worker import Calls, Worker
from starry_ros.sim.cell import BLOCK_HALF_M, Cell
from starry_ros.sim.choices import COLOURS
from starry_ros.sim.driver import SimulatedDriver, Simulation
from starry_ros.sim.tasks import SETTINGS, TASKS
from starry_ros.sim.trajectory_controller import Trajectory
from starry_ros.srv import ResetEpisode
from starry_ros.timing import seconds
from starry_ros.turns import PRIORITY, ask_for_real_time
from starry_ros.types import F64

PARAMETERS = (
    ROBOT,
    Parameter("task", "place_block_pad", "Task at start.", choices=TASKS),
    Parameter("setting", "easy", "Setting at start.", choices=SETTINGS),
    Parameter("seed", 0, "Seed of the scene at start.", 0, 2**31 - 1),
    Parameter("joint_state_hz", 50.0, "Rate of joint_states, in hertz.", 1.0, 100.0),
    Parameter("ground_truth_hz", 10.0, "Rate of the ground-truth topics, in hertz.", 1.0, 100.0),
)
BELOW_EXECUTOR = PRIORITY - 10
"""Where physics is too much for the machine, what it is for goes first."""
BLOCK_RGB = {"red": (0.9, 0.1, 0.1), "green": (0.1, 0.7, 0.1), "blue": (0.1, 0.2, 0.9)}


class SimRobotNode(StarryNode):
    """Physics thread on one side, topics on the other."""

    def __init__(self) -> None:
        super().__init__("sim_robot")
        self._values = declare(self, *PARAMETERS)
        self._in_force = self._values["task"], self._values["setting"]
        self._spec = load_robot_spec(robot_file(self._values["robot"]))
        self._edge = EdgeClock(self.get_clock())
        self._commands: queue.SimpleQueue[tuple[str, Trajectory | F64]] = queue.SimpleQueue()
        self._simulation: Simulation | None = None
        self._camera_rate = Every(self._spec.rates.camera_hz)
        self._state_rate = Every(self._values["joint_state_hz"])
        self._truth_rate = Every(self._values["ground_truth_hz"])
        self._calls = Calls(self)
        self._worker = Worker("physics", self._work, self.fail)
        self._make_interfaces()
        self._worker.start()

    def _make_interfaces(self) -> None:
        self._clock_topic = self.create_publisher(ClockMsg, "/clock", CLOCK)
        self._states = self.create_publisher(JointState, self._spec.joint_state_topic, STATE)
        topics = {
            camera.name: (self.resolve_topic_name(camera.topic), self.resolve_topic_name(camera.info_topic))
            for camera in self._spec.cameras
        }
        self._cameras = Cameras(robot_file(self._values["robot"]), self.get_namespace(), topics, self.fail)
        self._reference = self.create_publisher(JointState, "ground_truth/reference", STATE)
        self._pushed = self.create_publisher(JointState, "ground_truth/pushed", STATE)
        self._success = self.create_publisher(Bool, "ground_truth/success", LATCHED)
        self._placed = self.create_publisher(String, "ground_truth/placed", LATCHED)
        self._objects = self.create_publisher(MarkerArray, "ground_truth/objects", STATE)
        self._tf = FramePublisher(self, self._spec)
        streams = self._spec.command_interface == "joint_trajectory"
        kind, take = (JointTrajectory, self._on_command) if streams else (Float64MultiArray, self._on_set_point)
        for arm in self._spec.arms:
            self.create_subscription(kind, arm.command_topic, partial(take, arm.name), COMMAND)
        self.create_service(ResetEpisode, "reset_episode", self._on_reset)
        Diagnostics(self, self._health, self._spec.name)

    def begin(self) -> None:
        """Who holds Python's lock while physics waits for it must not wait itself for those that share the cores."""
        ask_for_real_time(BELOW_EXECUTOR)
        hear_first()

    def close(self) -> None:
        """End the physics thread and the cameras."""
        self._worker.close()
        self._cameras.close()

    # In the executor's thread

    def _on_command(self, arm: str, message: JointTrajectory) -> None:
        self._commands.put((arm, trajectory_of(message, self._edge)))

    def _on_set_point(self, arm: str, message: Float64MultiArray) -> None:
        signs = self._spec.limit("sign")[self._spec.arm_slice(arm)]
        position = np.asarray(message.data, dtype=np.float64)
        self._commands.put((arm, position * signs if position.shape == signs.shape else position))

    async def _on_reset(self, request: ResetEpisode.Request, response: ResetEpisode.Response) -> ResetEpisode.Response:
        task, setting = request.task or self._in_force[0], request.setting or self._in_force[1]
        try:
            response.instruction = await self._calls.run(lambda: self._reset(task, setting, request.seed))
            self._in_force = task, setting
            response.accepted, response.message = True, f"{task}, {setting}, seed {request.seed}"
        except StarryError as error:
            response.message = str(error)
        return response

    def _health(self) -> Health:
        simulation = self._simulation
        if simulation is None:
            return Health(WARN, "loading")
        driver = simulation.driver
        values: dict[str, object] = {"lost_s": seconds(driver.lost_ns), "limited_ticks": driver.limited_ticks,
                                     "instants_without_pictures": self._cameras.left_out}
        for camera, count in self._cameras.published.items():
            values |= {f"{camera}.published": count, f"{camera}.last_ns": self._cameras.last_ns[camera]}
        counts = dict(driver.rejected)  # the physics thread adds to it
        values |= {f"rejected.{reason}": count for reason, count in counts.items()}
        rejected = sum(counts.values())
        return Health(WARN if rejected else OK, f"{rejected} trajectories rejected" if rejected else "ok", values)

    # In the physics thread

    def _work(self) -> None:
        simulation = self._simulation or self._load()
        self._calls.serve()
        while not self._commands.empty():
            self._accept(simulation.driver, *self._commands.get())
        now_ns = self._edge.now_ns()
        if simulation.driver.behind(now_ns):
            simulation.driver.tick()
            self._publish(simulation)
        else:
            time.sleep(simulation.driver.wait_s(now_ns))

    def _load(self) -> Simulation:
        values = self._values
        args = (values["task"], values["setting"], values["seed"], self._edge.now_ns())
        self._simulation = Simulation(self._spec, *args)
        ask_for_real_time(BELOW_EXECUTOR)
        return self._simulation

    def _reset(self, task: str, setting: str, seed: int) -> str:
        return (self._simulation or self._load()).reset(task, setting, seed)

    def _accept(self, driver: SimulatedDriver, arm: str, command: Trajectory | F64) -> None:
        if not isinstance(command, Trajectory):
            driver.set_point(arm, command)
            return
        rejection = driver.accept(arm, command)
        if rejection is not None:
            self.get_logger().warning(f"{arm} arm: trajectory rejected: {rejection}", throttle_duration_sec=1.0)

    def _publish(self, simulation: Simulation) -> None:
        """What is due at the physics instant."""
        driver, scene = simulation.driver, simulation.scene
        stamp = self._edge.stamp(driver.time_ns)
        self._clock_topic.publish(ClockMsg(clock=stamp))
        if self._state_rate.due(driver.time_ns):
            state = driver.state()
            self._states.publish(state_message(self._spec, state, self._edge))
            self._reference.publish(state_message(self._spec, driver.reference(), self._edge))
            self._pushed.publish(state_message(self._spec, driver.pushed(), self._edge))
            self._tf.publish(state.position_J, stamp)
            scene.update()
        if self._truth_rate.due(driver.time_ns):
            self._success.publish(Bool(data=scene.success))
            self._placed.publish(String(data=",".join(scene.placed)))
            self._objects.publish(MarkerArray(markers=[_block(driver.cell, colour, stamp) for colour in COLOURS]))
        if self._camera_rate.due(driver.time_ns):
            self._cameras.show(Instant(stamp_ns(stamp), driver.cell.sight()))


def _block(cell: Cell, colour: str, stamp: Time) -> Marker:
    position, rotation = cell.block_position(colour), cell.block_rotation(colour)
    return cube_marker(colour, position, rotation, 2 * BLOCK_HALF_M, BLOCK_RGB[colour], stamp)


def main() -> None:
    """Entry point."""
    raise SystemExit(run(SimRobotNode))


if __name__ == "__main__":
    main()
