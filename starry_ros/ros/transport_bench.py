"""`starry bench transport`: how many images reach another process, with our DDS profile and with the default one.

One process publishes three best-effort cameras, another subscribes, as sim_robot and canvas_packer do. The same run is
made with both profiles, one after the other, so that both meet the same machine.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from array import array
from collections.abc import Callable, Sequence

import numpy as np
import rclpy
from rclpy.node import Node
from sensor_msgs.msg import Image

from starry_ros.errors import RuntimeUnavailable
from starry_ros.paths import share_dir
from starry_ros.report import bench_row, percentile
from starry_ros.robot_spec import RobotSpec
from starry_ros.ros.qos import SENSOR
from starry_ros.ros.transport import DDS_PROFILE_VARIABLES
from starry_ros.types import Record

CAMERAS = ("head", "left_wrist", "right_wrist")
HEIGHT_PX, WIDTH_PX, RATE_HZ = 480, 640, 30.0
QUIET_S = 1.5
DISCOVERY_S = 20.0
_WHERE = "bench transport"


def run(spec: RobotSpec, seconds: float = 8.0) -> list[Record]:
    """Rows: share delivered and latency in milliseconds; the baseline is the default profile. The robot is not used."""
    del spec
    default, ours = _measure(None, seconds), _measure(str(share_dir() / "config" / "fastdds.xml"), seconds)
    share, plain_share = ours["received"] / ours["sent"], default["received"] / default["sent"]
    condition = f"3 cameras, {WIDTH_PX} x {HEIGHT_PX} rgb8, {RATE_HZ:g} Hz, best effort, 2 processes, {seconds:g} s"
    rows = [
        bench_row("transport/delivered", share, "share", plain_share, more_is_better=True,
                  sent=ours["sent"], received=ours["received"],
                  baseline_sent=default["sent"], baseline_received=default["received"], condition=condition),
    ]
    for percent in (50, 99):
        value, baseline = (percentile(result["latency_ms"], percent) for result in (ours, default))
        if value is None:
            continue
        rows.append(bench_row(f"transport/latency_p{percent}", value, "ms", baseline, condition=condition))
    return rows


def _measure(profile: str | None, seconds: float) -> Record:
    """One run of the two processes: sent, received and the latency of each image in milliseconds."""
    environment = {key: value for key, value in os.environ.items() if key not in DDS_PROFILE_VARIABLES}
    environment |= {"ROS_DOMAIN_ID": str(60 + os.getpid() % 40), "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"}
    if profile is not None:
        environment |= dict.fromkeys(DDS_PROFILE_VARIABLES, profile)
    command = [sys.executable, "-m", __name__]
    processes = [subprocess.Popen([*command, role, str(seconds)], env=environment, stdout=subprocess.PIPE, text=True)
                 for role in ("subscribe", "publish")]
    try:
        outputs = [process.communicate(timeout=seconds + 2 * DISCOVERY_S)[0] for process in processes]
    except subprocess.TimeoutExpired as error:
        raise RuntimeUnavailable(_WHERE, "the two processes did not finish", fix="try on an idle machine") from error
    finally:
        for process in processes:
            process.kill()
            process.wait()
    if any(process.returncode for process in processes):
        raise RuntimeUnavailable(_WHERE, "the two processes did not find each other", fix="allow UDP on localhost")
    received, sent = (json.loads(output) for output in outputs)
    return {**received, **sent}


def publish(seconds: float) -> Record:
    """Publish position-coded images at the camera rate once every camera has a subscriber."""
    node = Node("transport_publisher")
    messages = [_image(camera) for camera in CAMERAS]
    publishers = [node.create_publisher(Image, f"{camera}/image_raw", SENSOR) for camera in CAMERAS]
    _wait(node, lambda: all(publisher.get_subscription_count() for publisher in publishers))
    time.sleep(QUIET_S)
    rounds = round(seconds * RATE_HZ)
    start_s = time.monotonic()
    for number in range(rounds):
        time.sleep(max(0.0, start_s + number / RATE_HZ - time.monotonic()))
        for publisher, message in zip(publishers, messages, strict=True):
            message.header.stamp = node.get_clock().now().to_msg()
            publisher.publish(message)
    time.sleep(QUIET_S)
    return {"sent": rounds * len(CAMERAS)}


def subscribe(seconds: float) -> Record:
    """Count images until the publishers are gone; with a bad profile, none may ever come."""
    node = Node("transport_subscriber")
    latency_ms: list[float] = []

    def on_image(message: Image) -> None:
        now_ns = node.get_clock().now().nanoseconds
        stamp = message.header.stamp
        latency_ms.append((now_ns - stamp.sec * 1_000_000_000 - stamp.nanosec) / 1e6)

    topics = [f"{camera}/image_raw" for camera in CAMERAS]
    for topic in topics:
        node.create_subscription(Image, topic, on_image, SENSOR)
    _wait(node, lambda: all(node.count_publishers(topic) for topic in topics))
    end_s = time.monotonic() + seconds + DISCOVERY_S
    while any(node.count_publishers(topic) for topic in topics) and time.monotonic() < end_s:
        rclpy.spin_once(node, timeout_sec=0.1)
    return {"received": len(latency_ms), "latency_ms": [round(value, 3) for value in latency_ms]}


def _image(camera: str) -> Image:
    pixels = np.arange(HEIGHT_PX * WIDTH_PX * 3, dtype=np.uint32).astype(np.uint8)
    data = array("B", pixels.tobytes())
    message = Image(height=HEIGHT_PX, width=WIDTH_PX, encoding="rgb8", step=WIDTH_PX * 3, data=data)
    message.header.frame_id = camera
    return message


def _wait(node: Node, ready: Callable[[], bool]) -> None:
    end_s = time.monotonic() + DISCOVERY_S
    while not ready():
        rclpy.spin_once(node, timeout_sec=0.05)
        if time.monotonic() > end_s:
            raise SystemExit(1)


def main(argv: Sequence[str]) -> None:
    """Entry point of the two processes."""
    rclpy.init(args=[])
    result = {"publish": publish, "subscribe": subscribe}[argv[0]](float(argv[1]))
    print(json.dumps(result))
    rclpy.try_shutdown()


if __name__ == "__main__":
    main(sys.argv[1:])
