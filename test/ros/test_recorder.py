"""Node recorder: what was on the wire is in the file, raw, and foreign tools can read it."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import numpy as np
from mcap.reader import make_reader
from mcap_ros2.decoder import DecoderFactory
from sensor_msgs.msg import Image
from starry_ros.msg import CanvasInfo, CanvasTile
from std_msgs.msg import String

from starry_ros.ros.convert import image_message
from starry_ros.ros.qos import LATCHED, SENSOR, STATE

SHAPE = (48, 64, 3)


def test_every_topic_is_recorded_raw_and_decodes_to_what_was_sent(world: Any, tmp_path: Path) -> None:
    images = world.node.create_publisher(Image, "head/image_raw", SENSOR)
    latched = world.node.create_publisher(String, "note", LATCHED)
    infos = world.node.create_publisher(CanvasInfo, "canvas_info", STATE)
    latched.publish(String(data="said before anybody listened"))
    recorder = world.start("recorder", output=str(tmp_path / "bags"))
    world.until(lambda: images.get_subscription_count() and infos.get_subscription_count(), 40, "the recorder")
    sent = [np.random.default_rng(i).integers(0, 256, SHAPE, dtype=np.uint8) for i in range(10)]
    for picture in sent:
        images.publish(image_message(picture, world.now(), "head_optical_frame"))
        infos.publish(CanvasInfo(layout_hash="abc", tiles=[CanvasTile(camera="head", age_s=0.25, valid=True)]))
        world.spin(0.05)
    world.spin(0.5)
    assert recorder.stop(signal.SIGINT) == 0
    assert "Traceback" not in recorder.text()
    with next((tmp_path / "bags").glob("*.mcap")).open("rb") as file:
        heard: dict[str, list[Any]] = {}
        for _, channel, _, message in make_reader(file, decoder_factories=[DecoderFactory()]).iter_decoded_messages():
            heard.setdefault(channel.topic, []).append(message)
    assert heard["/note"][0].data == "said before anybody listened"
    assert heard["/canvas_info"][-1].tiles[0].camera == "head"
    assert heard["/canvas_info"][-1].tiles[0].age_s == 0.25
    assert "/diagnostics" in heard
    got = [bytes(message.data) for message in heard["/head/image_raw"]]
    assert got == [picture.tobytes() for picture in sent]
