"""The relay of the pictures of `starry chaos`: a process of its own, with real DDS."""

from __future__ import annotations

import pytest
from conftest import World
from sensor_msgs.msg import Image

from starry_ros.paths import robot_file
from starry_ros.robot_spec import load_robot_spec
from starry_ros.ros import chaos_messages
from starry_ros.ros.picture_relay import PictureRelay, RigError
from starry_ros.ros.qos import SENSOR
from starry_ros.ros.relay import SIM_SIDE


def test_pictures_pass_are_spoilt_for_one_camera_alone_and_the_process_ends(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ROS_DOMAIN_ID", str(world.domain))
    head, wrist = (camera.topic for camera in load_robot_spec(robot_file("bimanual_sim")).cameras[:2])
    with PictureRelay(load_robot_spec(robot_file("bimanual_sim"))) as relay:
        sent = [world.publisher(Image, f"{SIM_SIDE}/{topic}", SENSOR) for topic in (head, wrist)]
        heard = [world.listen(Image, topic, SENSOR) for topic in (head, wrist)]
        picture = Image(width=8, height=8, step=24, encoding="rgb8", data=bytes(192))

        def send() -> bool:
            for publisher in sent:
                publisher.publish(picture)
            return all(heard)

        world.until(send, what="pictures")
        assert heard[0][0].data == picture.data
        relay.spoil(head, chaos_messages.edited(Image, chaos_messages.shrink))
        for images in heard:
            images.clear()
        world.until(lambda: send() and heard[0][-1].width == 160, what="a spoilt picture")
        assert {image.width for image in heard[1]} == {8}
        relay.spoil(head, None)
        world.until(lambda: send() and heard[0][-1].width == 8, what="a sound picture")
    assert relay.exit_code == 0


def test_a_relay_that_has_ended_is_no_fault_of_the_graph(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROS_DOMAIN_ID", str(world.domain))
    with PictureRelay(load_robot_spec(robot_file("bimanual_sim"))) as relay:
        relay._process.kill()
        relay._process.join()
        with pytest.raises(RigError, match="nothing instead of done"):
            relay.spoil("head/image_raw", chaos_messages.dropped)
