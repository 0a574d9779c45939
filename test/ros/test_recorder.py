"""Node recorder: what was on the wire is in the file, raw, and foreign tools can read it."""

from __future__ import annotations

import resource
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
from mcap.reader import make_reader
from mcap_ros2.decoder import DecoderFactory
from recording_kit import write_session
from sensor_msgs.msg import Image, JointState
from starry_ros.msg import CanvasInfo, CanvasTile, ExecutorStatus
from std_msgs.msg import String

from starry_ros.recording.recover import recover
from starry_ros.ros.convert import image_message, stamp_ns
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
    heard = read(next((tmp_path / "bags").glob("*.mcap")))
    assert heard["/note"][0].data == "said before anybody listened"
    assert heard["/canvas_info"][-1].tiles[0].camera == "head"
    assert heard["/canvas_info"][-1].tiles[0].age_s == 0.25
    assert "/diagnostics" in heard
    got = [bytes(message.data) for message in heard["/head/image_raw"]]
    assert got == [picture.tobytes() for picture in sent]


def read(path: Path) -> dict[str, list[Any]]:
    """Decoded messages by topic, by mcap's own reader."""
    heard: dict[str, list[Any]] = {}
    with path.open("rb") as file:
        for _, channel, _, message in make_reader(file, decoder_factories=[DecoderFactory()]).iter_decoded_messages():
            heard.setdefault(channel.topic, []).append(message)
    return heard


def test_a_killed_recorder_loses_at_most_the_last_second(world: Any, tmp_path: Path) -> None:
    notes = world.node.create_publisher(String, "note", STATE)
    recorder = world.start("recorder", output=str(tmp_path / "bags"))
    world.until(notes.get_subscription_count, 60, "the recorder")
    sent_s = []
    for index in range(80):
        notes.publish(String(data=str(index)))
        sent_s.append(time.monotonic())
        world.spin(0.04)
    killed_s = time.monotonic()
    recorder.process.kill()
    recorder.process.wait()
    recovered = recover(next((tmp_path / "bags").glob("*.mcap")))
    heard = [int(message.data) for message in read(recovered.path)["/note"]]
    safe = sum(killed_s - at_s > 1.0 for at_s in sent_s)
    assert heard == list(range(len(heard)))
    assert len(heard) >= safe >= 40
    with recovered.path.open("rb") as file:
        names = {attachment.name for attachment in make_reader(file).iter_attachments()}
    assert {"robot.yaml", "parameters/recorder.yaml"} <= names


def test_a_full_disk_is_said_and_the_node_lives_on(world: Any, tmp_path: Path) -> None:
    recorder = world.start("recorder", output=str(tmp_path / "bags"), min_free_mib=2**20)
    world.until(lambda: "MiB left" in world.message("recorder"), 60, "the complaint")
    assert world.message("recorder").startswith("disk: ")
    world.spin(1.0)
    assert recorder.process.poll() is None
    assert not list((tmp_path / "bags").glob("*.mcap"))


def test_a_disk_that_fills_ends_the_file_and_is_said_within_a_second(world: Any, tmp_path: Path) -> None:
    notes = world.node.create_publisher(String, "note", STATE)
    recorder = world.start("recorder", output=str(tmp_path / "bags"))
    world.until(notes.get_subscription_count, 60, "the recorder")
    resource.prlimit(recorder.process.pid, resource.RLIMIT_FSIZE, (1, resource.RLIM_INFINITY))
    full_s = time.monotonic()
    while not world.message("recorder").startswith("disk: ") and time.monotonic() - full_s < 5:
        notes.publish(String(data="x" * 500))
        world.spin(0.02)
    assert time.monotonic() - full_s < 1.0
    assert recorder.process.poll() is None


def test_a_ring_writes_the_seconds_around_a_fault_and_nothing_before(world: Any, tmp_path: Path) -> None:
    notes = world.node.create_publisher(String, "note", STATE)
    statuses = world.node.create_publisher(ExecutorStatus, "executor_status", LATCHED)
    world.start("recorder", output=str(tmp_path / "bags"), ring_s=1.0, after_s=0.8)
    world.until(lambda: notes.get_subscription_count() and statuses.get_subscription_count(), 60, "the recorder")

    def run(count: int, first: int, mode: str) -> None:
        for index in range(first, first + count):
            notes.publish(String(data=str(index)))
            statuses.publish(ExecutorStatus(mode_name=mode))
            world.spin(0.05)

    run(60, 0, "RUN")
    assert not list((tmp_path / "bags").glob("*"))
    run(60, 60, "FAULT")
    world.until(lambda: world.message("recorder") == "waiting for a fault", 10, "the end of the file")
    (path,) = (tmp_path / "bags").glob("*_fault.mcap")
    heard = [int(message.data) for message in read(path)["/note"]]
    assert heard == list(range(heard[0], heard[-1] + 1))
    assert 30 <= heard[0] < 59
    assert 64 <= heard[-1] < 110


def test_every_file_of_a_ring_has_the_parameters_and_a_save_says_what_came_of_it(world: Any, tmp_path: Path) -> None:
    bags, notes = tmp_path / "bags", world.node.create_publisher(String, "note", STATE)
    recorder = world.start("recorder", output=str(bags), ring_s=5.0, after_s=0.2)
    world.until(notes.get_subscription_count, 60, "the recorder")
    saved = []
    for _ in range(2):
        for index in range(20):
            notes.publish(String(data=str(index)))
            world.spin(0.05)
        reply = world.trigger("recorder/save")
        assert reply.success, reply.message
        saved.append(Path(reply.message.split()[-1]))
        assert saved[-1].parent == bags
        counted = {"files": str(len(saved)), "file": ""}
        world.until(lambda want=counted: want.items() <= world.values("recorder").items(), 10, "the end of the file")
    for path in saved:
        with path.open("rb") as file:
            assert "parameters/recorder.yaml" in {found.name for found in make_reader(file).iter_attachments()}
    resource.prlimit(recorder.process.pid, resource.RLIMIT_FSIZE, (1, resource.RLIM_INFINITY))
    reply = world.trigger("recorder/save")
    assert (reply.success, reply.message[:6]) == (False, "disk: ")


def test_sensors_are_not_replayed_into_a_graph_that_has_a_robot(world: Any, tmp_path: Path) -> None:
    path = tmp_path / "a.mcap"
    write_session(path, plans=1)
    world.node.create_publisher(JointState, "joint_states", STATE)
    player = world.start_as("replay", ["-m", "starry_ros.cli", "replay", str(path), "--to-ros"])
    world.until(lambda: player.process.poll() is not None, 60, "the end")
    assert player.process.returncode == 2
    assert "somebody publishes these topics already" in player.text()


def test_replayed_sensors_reach_the_graph_stamped_as_if_measured_now(world: Any, tmp_path: Path, spec: Any) -> None:
    path = tmp_path / "a.mcap"
    write_session(path, plans=3)
    states = world.listen(JointState, "joint_states", STATE)
    player = world.start_as("replay", ["-m", "starry_ros.cli", "replay", str(path), "--to-ros", "--rate", "2"])
    world.until(lambda: len(states) == 9, 60, "all joint states")
    world.until(lambda: player.process.poll() is not None, 20, "the end")
    assert "9 messages published" in player.text()
    ages_s = (stamp_ns(world.now()) - stamp_ns(states[-1].header.stamp)) / 1e9
    assert -0.1 < ages_s < 20
    stamps = [stamp_ns(message.header.stamp) for message in states]
    assert 0.3e9 < stamps[7] - stamps[1] < 0.5e9, "0.8 s at twice the speed"
    assert states[0].name == list(spec.joint_names)
