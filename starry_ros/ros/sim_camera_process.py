"""The process of the simulated robot's cameras; `sim_cameras.py` starts it and says why it is one.

`python -m starry_ros.ros.sim_camera_process ROBOT NAMESPACE [CAMERA PICTURE_TOPIC INFO_TOPIC]...`: instants come by
standard input, with whose end it ends, and with nothing else; what was shown is told by standard output.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import sys
import threading
from typing import IO

from rclpy.node import Node
from sensor_msgs.msg import CameraInfo, Image

from starry_ros.errors import StarryError
from starry_ros.robot_spec import load_robot_spec
from starry_ros.ros.convert import camera_info_message, image_message, to_stamp
from starry_ros.ros.dead_ports import keep_off_dead_ports
from starry_ros.ros.qos import SENSOR
from starry_ros.ros.run import EXIT_USER_ERROR, ros_session
from starry_ros.ros.sim_cameras import CUT_OFF, END_S, TAKE_S, Instant, Shown
from starry_ros.ros.worker import Slot
from starry_ros.sim.driver import CameraRig


def main() -> None:
    """Entry point."""
    for number in (signal.SIGINT, signal.SIGTERM):  # they may come to the robot's whole group; it ends us in time
        signal.signal(number, signal.SIG_IGN)
    keep_off_dead_ports()
    try:
        with _standard_output() as answers, ros_session(signals=False):
            _show_until_the_end(sys.argv[1], sys.argv[2], sys.argv[3:], answers)
    except StarryError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        raise SystemExit(EXIT_USER_ERROR) from None
    except BrokenPipeError:
        raise SystemExit(0) from None  # the robot is gone


def _show_until_the_end(robot: str, namespace: str, names: list[str], answers: IO[bytes]) -> None:
    spec = load_robot_spec(robot)
    node = Node("sim_cameras", namespace=namespace, start_parameter_services=False)  # it does not spin
    publishers = {
        camera: (node.create_publisher(Image, picture, SENSOR), node.create_publisher(CameraInfo, info, SENSOR))
        for camera, picture, info in zip(names[::3], names[1::3], names[2::3], strict=True)
    }
    told: Slot[Instant] = Slot()
    ended = threading.Event()
    threading.Thread(target=_listen, args=(told, ended), daemon=True).start()
    rig = CameraRig(spec)
    while not ended.is_set():
        instant = told.take(TAKE_S)
        if instant is None:
            continue
        stamp = to_stamp(instant.stamp_ns)
        for camera, image, model in rig.pictures(instant.sight):
            if ended.is_set():
                break
            frame_id = spec.camera(camera).frame_id
            messages = image_message(image, stamp, frame_id), camera_info_message(model, stamp, frame_id)
            for publisher, message in zip(publishers[camera], messages, strict=True):
                publisher.publish(message)
            pickle.dump(Shown(camera, instant.stamp_ns, told.replaced), answers)
            answers.flush()
    rig.close()


def _listen(told: Slot[Instant], ended: threading.Event) -> None:
    instants = os.fdopen(os.dup(sys.stdin.fileno()), "rb")  # Python aborts if it ends while sys.stdin is being read
    try:
        with contextlib.suppress(*CUT_OFF):
            while True:
                told.put(pickle.load(instants))
    finally:
        ended.set()
        last = threading.Timer(END_S, os._exit, (1,))  # where it stands in a picture, nobody else is left to end it
        last.daemon = True
        last.start()


def _standard_output() -> IO[bytes]:
    """For answers alone: what libraries print goes to standard error from here on."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    return answers


if __name__ == "__main__":
    main()
