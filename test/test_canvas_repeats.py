"""A driver that hangs sends its last picture under new stamps: told from a scene at rest by the joints."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from starry_ros.canvas.sync import CameraState, Drop, FrameSync
from starry_ros.kinematics.mounts import shown_joints
from starry_ros.kinematics.robot import RobotKinematics
from starry_ros.paths import robot_file
from starry_ros.robot_spec import KinematicsSpec, RobotSpec, load_robot_spec
from starry_ros.types import CameraFrame

MS = 1_000_000
SPEC = load_robot_spec(robot_file("bimanual_sim"))
SHOWS = shown_joints(SPEC)
CAMERAS = tuple(SHOWS)
HOME = SPEC.limit("home")
PERIOD_MS, AGE_MS = 50, 300
SLOW = 0.02
"""rad a picture: the posture differs by more than is let pass from the third repetition on."""


class Cameras:
    """All three, at one rate; the joints that move do so at a steady rate."""

    def __init__(self, start_ms: int = 1000) -> None:
        self.sync = FrameSync(CAMERAS, 0.02, AGE_MS / 1000, shows=SHOWS)
        self.now_ms, self.sent, self.position_J = start_ms, 0, HOME.copy()

    def shoot(
        self, count: int, *joints: str, stuck: tuple[str, ...] = (), known: bool = True, rad: float = SLOW
    ) -> dict[str, bool]:
        """Pictures of moving joints, the same again by the cameras that are stuck; who is in the last set."""
        valid: dict[str, bool] = {}
        for _ in range(count):
            self.now_ms += PERIOD_MS
            self.sent += 1
            for name in joints:
                self.position_J[SPEC.joint_names.index(name)] += rad
            if known:
                self.sync.hear((self.now_ms - 1) * MS, self.position_J.copy())
            for camera in CAMERAS:
                self.push(camera, 0 if camera in stuck else self.sent)
            found = self.sync.newest(self.now_ms * MS)
            valid = {camera: found is not None and camera in found.frames for camera in CAMERAS}
        return valid

    def push(self, camera: str, seed: int) -> Drop | None:
        image = np.random.default_rng(seed).integers(0, 256, (32, 32, 3), dtype=np.uint8)
        return self.sync.push(CameraFrame(camera, self.now_ms * MS, self.now_ms * MS, image))

    def state(self, camera: str) -> CameraState:
        status = self.sync.status(self.now_ms * MS)
        return next(health.state for health in status.cameras if health.camera == camera)


def test_pictures_that_repeat_while_the_arms_stand_stay_valid_for_ever() -> None:
    cameras = Cameras()
    assert all(cameras.shoot(200, stuck=CAMERAS).values())
    assert cameras.state("head") is CameraState.SAME_IMAGE
    assert all(cameras.shoot(200, "left_gripper", "right_gripper", stuck=CAMERAS).values()), "jaws do not count"


@pytest.mark.parametrize("joint", ["left_waist", "left_wrist_roll"])
def test_pictures_that_repeat_while_what_they_must_show_moves_become_invalid_and_come_back(joint: str) -> None:
    cameras = Cameras()
    cameras.shoot(10)
    repeats_until_too_old = AGE_MS // PERIOD_MS + 1
    assert all(cameras.shoot(repeats_until_too_old, joint, stuck=("head",)).values())
    for _ in range(20):
        assert cameras.shoot(1, joint, stuck=("head",)) == {"head": False, "left_wrist": True, "right_wrist": True}
        assert cameras.state("head") is CameraState.REPEATS
    assert cameras.shoot(1, stuck=("head",))["head"] is False, "also once the arms rest again"
    counters = cameras.sync.status(cameras.now_ms * MS).cameras[0].counters
    assert counters.repeated == counters.dropped == 21
    assert all(cameras.shoot(1, joint).values())
    assert cameras.state("head") is CameraState.OK


def test_no_set_holds_a_picture_from_before_once_it_is_known_to_be_outdated() -> None:
    cameras = Cameras()
    cameras.shoot(20, "left_waist", stuck=("head",))
    before_ms = cameras.now_ms
    cameras.now_ms += 2 * PERIOD_MS
    assert cameras.push("head", 77) is None
    cameras.now_ms += 1
    for camera in CAMERAS[1:]:
        cameras.push(camera, 78)
    found = cameras.sync.newest(cameras.now_ms * MS)
    assert found is not None
    assert found.frames["head"].stamp_ns > before_ms * MS


def test_a_camera_that_hung_while_the_arms_stood_is_believed_until_they_move() -> None:
    cameras = Cameras()
    assert all(cameras.shoot(100, stuck=CAMERAS).values())
    assert all(cameras.shoot(1, "right_elbow", stuck=CAMERAS, rad=0.04).values())
    assert cameras.shoot(1, "right_elbow", stuck=CAMERAS, rad=0.04) == {
        "head": False, "left_wrist": True, "right_wrist": False}


def test_a_wrist_camera_of_the_arm_that_rests_stays_valid() -> None:
    cameras = Cameras()
    valid = cameras.shoot(50, "right_waist", stuck=("head", "left_wrist", "right_wrist"))
    assert valid == {"head": False, "left_wrist": True, "right_wrist": False}


def test_an_arm_that_moved_and_came_back_has_moved() -> None:
    cameras = Cameras()
    cameras.shoot(2, stuck=("left_wrist",))
    cameras.shoot(2, "left_elbow", stuck=("left_wrist",), rad=0.04)
    cameras.shoot(2, "left_elbow", stuck=("left_wrist",), rad=-0.04)
    assert cameras.shoot(5, stuck=("left_wrist",))["left_wrist"] is False


def test_arms_that_are_set_elsewhere_between_two_pictures_have_not_moved_within_either_view() -> None:
    cameras = Cameras()
    for place in range(5):
        cameras.position_J = HOME + 0.3 * place
        cameras.now_ms += PERIOD_MS
        cameras.sync.hear(cameras.now_ms * MS, HOME + 0.3 * place - 0.3)  # measured just before, heard only now
        for _ in range(30):
            cameras.push("head", place)
            cameras.now_ms += PERIOD_MS
            cameras.sync.hear((cameras.now_ms - 1) * MS, cameras.position_J)
            assert cameras.state("head") is not CameraState.REPEATS
        cameras.sync.hear(cameras.now_ms * MS, HOME + 0.3 * place + 0.3)  # and just after, heard before the picture
        cameras.push("head", place)
        assert cameras.state("head") is not CameraState.REPEATS


def test_what_is_no_number_or_out_of_order_says_nothing() -> None:
    cameras = Cameras()
    for step in range(50):
        cameras.sync.hear((cameras.now_ms + 10) * MS, np.r_[np.nan, HOME[1:] + step])
        assert cameras.shoot(1, stuck=CAMERAS) == dict.fromkeys(CAMERAS, True)
    cameras.sync.hear(10**6 * MS, HOME + 1.0)
    cameras.sync.hear(5 * MS, HOME + 2.0)
    assert all(cameras.shoot(5, stuck=CAMERAS).values()), "stamps from elsewhere lie between no two pictures"


def test_without_joint_states_there_is_but_a_suspicion() -> None:
    cameras = Cameras()
    assert all(cameras.shoot(50, "left_waist", "right_waist", stuck=CAMERAS, known=False).values())
    assert cameras.state("left_wrist") is CameraState.SAME_IMAGE
    assert all(cameras.shoot(2, "left_waist", stuck=CAMERAS).values()), "what moved before is not known"
    assert not any(cameras.shoot(3, "left_waist", "right_waist", stuck=CAMERAS, rad=0.06).values())
    assert not any(cameras.shoot(3, stuck=CAMERAS, known=False).values()), "what is known is not forgotten"


def test_a_clock_that_jumps_back_starts_over() -> None:
    cameras = Cameras(start_ms=900_000)
    assert not any(cameras.shoot(50, "left_waist", "right_waist", stuck=CAMERAS).values())
    cameras.now_ms = 1000
    assert all(cameras.shoot(AGE_MS // PERIOD_MS, "left_waist", "right_waist", stuck=CAMERAS).values())
    assert not any(cameras.shoot(2, "left_waist", "right_waist", stuck=CAMERAS).values())


def test_pictures_out_of_order_are_dropped_also_while_others_repeat() -> None:
    cameras = Cameras()
    cameras.shoot(20, "left_waist", stuck=("head",))
    cameras.now_ms -= 10
    assert cameras.push("head", 5) is Drop.OUT_OF_ORDER
    assert cameras.state("head") is CameraState.REPEATS


def test_a_camera_must_show_what_carries_it_and_one_that_stands_every_arm() -> None:
    left, right = (0, 1, 2, 3, 4, 5), (7, 8, 9, 10, 11, 12)
    assert shown_joints(SPEC) == {"head": (left + right,), "left_wrist": (left,), "right_wrist": (right,)}
    swapped = replace(SPEC, arms=SPEC.arms[::-1])
    assert shown_joints(swapped) == {"head": (left + right,), "left_wrist": (right,), "right_wrist": (left,)}
    robot = RobotKinematics(SPEC)
    assert (robot.carriers("head"), robot.carriers("left_wrist")) == ((), left)


@pytest.mark.parametrize("format_", ["none", "mjcf"])
def test_of_a_wrist_camera_of_an_unknown_arm_only_the_motion_of_both_arms_says_something(
    format_: str, tmp_path: Path
) -> None:
    unread = replace(SPEC, kinematics=KinematicsSpec(format_, str(tmp_path / "missing.xml")))
    cameras = tuple(replace(camera, name=f"other_{i}") for i, camera in enumerate(SPEC.cameras))
    for spec in (unread, replace(SPEC, cameras=cameras)):
        head, *wrists = shown_joints(spec).values()
        assert head == SHOWS["head"]
        assert wrists == [(*SHOWS["left_wrist"], *SHOWS["right_wrist"])] * 2


def test_a_camera_on_a_moving_part_is_found_in_a_urdf_by_its_frame(tmp_path: Path) -> None:
    (tmp_path / "one.urdf").write_text("""<robot name="one"><link name="world"/>
      <joint name="slide" type="prismatic"><parent link="world"/><child link="link"/><axis xyz="1 0 0"/>
      <limit lower="-1" upper="1" effort="1" velocity="1"/></joint>
      <link name="link"><inertial><mass value="1"/>
      <inertia ixx="1" iyy="1" izz="1" ixy="0" ixz="0" iyz="0"/></inertial></link>
      <joint name="mount" type="fixed"><parent link="link"/><child link="eye"/></joint><link name="eye"/></robot>""")
    spec: RobotSpec = replace(
        SPEC, cameras=(replace(SPEC.cameras[0], name="other", frame_id="eye"),),
        kinematics=KinematicsSpec("urdf", str(tmp_path / "one.urdf")),
        arms=(replace(SPEC.arms[0], joints=(replace(SPEC.joints[0], name="slide"),), end_effector_frame="eye"),),
    )
    assert RobotKinematics(spec).carriers("other") == (0,)


def test_joints_that_leap_and_leap_back_leave_the_cameras_of_a_scene_at_rest_valid() -> None:
    cameras = Cameras()
    cameras.shoot(10, stuck=CAMERAS)
    for offset in (1.0, -1.0):
        cameras.position_J += offset
        assert all(cameras.shoot(20, stuck=CAMERAS).values()), offset


def test_after_a_leap_a_camera_that_repeats_is_found_again() -> None:
    cameras = Cameras()
    cameras.shoot(3, "right_waist", stuck=("head",))
    cameras.position_J += 1.0
    assert cameras.shoot(3, "right_waist", stuck=("head",))["head"]
    assert not cameras.shoot(8, "right_waist", stuck=("head",))["head"]
