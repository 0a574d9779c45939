"""Node canvas_packer over real DDS: good cameras, and every kind of bad one."""

from __future__ import annotations

import os
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sensor_msgs.msg import Image, JointState
from starry_ros.msg import CanvasInfo

from starry_ros.canvas.layout import t_pose_layout
from starry_ros.canvas.pack import CanvasPacker
from starry_ros.ros.convert import image_message, stamp_ns, to_stamp
from starry_ros.ros.qos import SENSOR, STATE

CAMERAS = ("head", "left_wrist", "right_wrist")
PERIOD_S = 1 / 15


def position_coded(camera: str, shift: int = 0) -> np.ndarray:
    """Every pixel says where it is, and which camera it belongs to."""
    rows, columns = np.mgrid[0:240, 0:320]
    plane = np.full_like(rows, 40 + 70 * CAMERAS.index(camera))
    return np.stack([rows + shift, columns * 255 // 319, plane], axis=-1).astype(np.uint8)


Change = Callable[[Image], Image | None]


class Rig:
    """Three cameras; `change` may spoil the messages of one."""

    def __init__(self, world: Any) -> None:
        self.world = world
        self.infos = world.listen(CanvasInfo, "canvas_info", SENSOR)
        self.canvases = world.listen(Image, "canvas", SENSOR)
        world.start("canvas_packer", max_age_s=0.5)
        self.publishers = {camera: world.publisher(Image, f"{camera}/image_raw", SENSOR) for camera in CAMERAS}
        self.sent = 0

    def shoot(self, duration_s: float, changes: dict[str, Change] | None = None) -> None:
        for _ in range(round(duration_s / PERIOD_S)):
            self.sent += 1
            stamp = self.world.now()
            for camera, publisher in self.publishers.items():
                message = image_message(position_coded(camera, self.sent % 8), stamp, f"{camera}_optical_frame")
                changed = (changes or {}).get(camera, lambda m: m)(message)
                if changed is not None:
                    publisher.publish(changed)
            self.world.spin(PERIOD_S)

    def shoot_until(self, ready: Callable[[], bool], changes: dict[str, Change] | None = None) -> None:
        """A machine that runs tests may be slow: what is tested is what comes, not when."""
        for _ in range(600):
            self.shoot(PERIOD_S, changes)
            if self.infos and ready():
                return
        pytest.fail(f"{self.tiles()} {self.world.health}")

    def all_valid(self) -> None:
        self.shoot_until(lambda: all(self.tiles().values()))

    def tiles(self) -> dict[str, bool]:
        return {tile.camera: tile.valid for tile in self.infos[-1].tiles}


@pytest.fixture(scope="module")
def rig(shared_world: Any) -> Rig:
    return Rig(shared_world)


def test_good_cameras_give_complete_canvases_with_the_cameras_stamps(rig: Rig, spec: Any) -> None:
    rig.shoot_until(lambda: all(rig.tiles().values()) and rig.canvases[-1:] != []
                    and rig.infos[-1].header.stamp == rig.canvases[-1].header.stamp)
    info, canvas = rig.infos[-1], rig.canvases[-1]
    assert info.contract_hash == spec.content_hash
    assert {stamp_ns(tile.stamp) for tile in info.tiles} == {stamp_ns(canvas.header.stamp)}
    image = np.frombuffer(canvas.data, np.uint8).reshape(canvas.height, canvas.width, 3)
    packer = CanvasPacker(t_pose_layout(spec))
    shifts = [packer.pack_images({camera: position_coded(camera, shift) for camera in CAMERAS}) for shift in range(8)]
    assert any(np.array_equal(image, expected) for expected in shifts)


def wrong_size(message: Image) -> Image:
    return image_message(np.zeros((120, 160, 3), np.uint8), message.header.stamp, message.header.frame_id)


def unknown_encoding(message: Image) -> Image:
    message.encoding = "yuv422_weird"
    return message


def cut_off(message: Image) -> Image:
    message.data = array("B", message.data[:1000])
    return message


def stale(message: Image) -> Image:
    message.header.stamp = to_stamp(stamp_ns(message.header.stamp) - 3_000_000_000)
    return message


def frozen(message: Image) -> Image:
    message.header.stamp = to_stamp(1_700_000_000_000_000_000)
    return message


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda _: None, "silent"), (wrong_size, "wrong size"), (unknown_encoding, "unknown image encoding"),
        (cut_off, "wrong length"), (stale, "late"), (frozen, "late"),
    ],
)
def test_a_bad_camera_is_marked_invalid_and_named_with_the_reason(rig: Rig, change: Change, reason: str) -> None:
    rig.all_valid()
    rig.world.health.clear()
    expected = {"head": True, "left_wrist": False, "right_wrist": True}

    def named() -> bool:
        message = rig.world.message("canvas_packer")
        return rig.tiles() == expected and message.startswith("left_wrist: ") and reason in message

    rig.shoot_until(named, {"left_wrist": change})


def same_pixels(camera: str) -> Change:
    """What a driver that hangs sends: its last picture under new stamps."""
    return lambda message: image_message(position_coded(camera, 100), message.header.stamp, message.header.frame_id)


def test_a_picture_that_repeats_is_invalid_while_joints_move_that_it_must_show(rig: Rig, spec: Any) -> None:
    joints = rig.world.publisher(JointState, "joint_states", STATE)
    shown: dict[str, float] = {"left_waist": 0.0}

    def tell(position: float, *, bad: bool = False) -> None:
        """All joints in jumbled order, and one that is not the contract's; bad: one is missing, or none is a number."""
        shown["left_waist"] = position
        home = dict(zip(spec.joint_names, spec.limit("home").tolist(), strict=True)) | {"torso": 1.0} | shown
        nowhere = bad and rig.sent % 2
        names = sorted(home)[1:] if bad and not nowhere else sorted(home)
        message = JointState(name=names, position=[float("nan") if nowhere else home[name] for name in names])
        message.header.stamp = rig.world.now()
        joints.publish(message)

    def telling(change: Change, step: float, *, bad: bool = False) -> Change:
        def once(message: Image) -> Image | None:
            tell(shown["left_waist"] + step, bad=bad)
            return change(message)

        return once

    def named(state: str) -> Callable[[], bool]:
        return lambda: rig.world.values("canvas_packer").get("left_wrist.state") == state

    rig.all_valid()
    still, good = same_pixels("left_wrist"), lambda message: message
    rig.shoot_until(named("same_image"), {"left_wrist": telling(still, 0.0)})
    assert rig.tiles()["left_wrist"], "a scene at rest looks the same"
    rig.shoot(1.0, {"left_wrist": telling(still, 0.05, bad=True)})
    assert rig.tiles()["left_wrist"], "joint states that are no good say nothing"
    shown["left_waist"] = 0.0
    rig.shoot_until(lambda: rig.tiles() == {"head": True, "left_wrist": False, "right_wrist": True}
                    and named("repeats")(), {"left_wrist": telling(still, 0.02)})
    assert "left_wrist: repeats" in rig.world.message("canvas_packer")
    rig.shoot_until(lambda: all(rig.tiles().values()) and named("ok")(), {"left_wrist": telling(good, 0.02)})


def test_skewed_stamps_never_meet_on_one_canvas(rig: Rig) -> None:
    rig.all_valid()
    before = len(rig.infos)

    def skew(message: Image) -> Image:
        message.header.stamp = to_stamp(stamp_ns(message.header.stamp) - 33_400_000)
        return message

    rig.shoot(1.0, {"head": skew})
    spreads = [max(tile.skew_s for tile in info.tiles if tile.valid) for info in rig.infos[before + 3 :]]
    assert all(spread <= 0.0301 for spread in spreads)


def test_two_publishers_of_one_camera_are_both_refused(rig: Rig) -> None:
    intruder = rig.world.node.create_publisher(Image, "right_wrist/image_raw", SENSOR)
    rig.shoot_until(lambda: not rig.tiles()["right_wrist"]
                    and "more than one publisher" in rig.world.message("canvas_packer"))
    rig.world.node.destroy_publisher(intruder)
    rig.all_valid()


def ports_of(pid: int) -> set[str]:
    """Shared-memory ports whose locks a process holds."""
    links = {os.readlink(link) for link in Path(f"/proc/{pid}/fd").iterdir() if link.exists()}
    return {Path(link).name for link in links if "fastrtps_port" in link and link.endswith("_el")}


def test_a_packer_that_is_started_after_a_kill_reads_from_another_port(world: Any) -> None:
    """The senders go on writing to the port of the one that was killed: whether they find its successor is luck."""
    rig = Rig(world)
    rig.shoot_until(lambda: len(rig.canvases) > 2)
    killed = world.children["canvas_packer"].process
    before = ports_of(killed.pid)
    assert before, "this test needs pictures by shared memory"
    killed.kill()
    killed.wait()
    world.start("canvas_packer", max_age_s=0.5)
    heard = len(rig.canvases)
    rig.shoot_until(lambda: len(rig.canvases) > heard + 2)
    after = ports_of(world.children["canvas_packer"].process.pid)
    assert before <= after, "the dead one's are kept"
    assert after - before, "and it has its own"
