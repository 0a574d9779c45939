"""Workspace and distance between the arms: foreign kinematics, plans that run out of space, arms that stand outside."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from control_kit import FULL_SPEC, PERIOD_NS, Follower, make_chunk

from starry_ros.control.executor import Executor
from starry_ros.control.safety import Mode
from starry_ros.control.schedule import Refusal
from starry_ros.control.space import MARGIN_M, SAMPLE_S, Space
from starry_ros.control.trajectory import Curve
from starry_ros.errors import ConfigError
from starry_ros.robot_spec import KinematicsSpec
from starry_ros.sim.cell import Cell
from starry_ros.sim.kinematics import ArmKinematics

HOME = FULL_SPEC.limit("home")
RIGHT = FULL_SPEC.arm_slice("right")
LEFT = FULL_SPEC.arm_slice("left")
HASH = FULL_SPEC.content_hash


@pytest.fixture(scope="module")
def space() -> Space:
    return Space(FULL_SPEC)


@pytest.fixture(scope="module")
def arms() -> dict[str, ArmKinematics]:
    model = Cell(FULL_SPEC).model
    return {arm: ArmKinematics.from_model(model, arm) for arm in ("left", "right")}


def reaching(arms: dict[str, ArmKinematics], x: float, y: float, z: float, arm: str = "right") -> np.ndarray:
    joints = HOME.copy()
    joints[FULL_SPEC.arm_slice(arm)][:-1] = arms[arm].solve_down(x, y, z, 0.0)
    return joints


def plan_to(goal_J: np.ndarray, observation_ns: int, chunk_id: int = 1, steps: int = 16) -> object:
    share = np.linspace(0, 1, steps)[:, None]
    ease = share**3 * (10 - 15 * share + 6 * share**2)
    return make_chunk(HOME + ease * (goal_J - HOME), observation_ns, chunk_id, contract_hash=HASH)


def test_hands_are_where_the_closed_form_says(space: Space, arms: dict[str, ArmKinematics]) -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        joints = rng.uniform(FULL_SPEC.limit("lower"), FULL_SPEC.limit("upper"))
        space.robot.place(joints)
        expected = [arms["left"].pinch(joints[LEFT]), arms["right"].pinch(joints[RIGHT])]
        assert np.allclose(space.robot.hands(), expected, atol=1e-9)


@pytest.mark.parametrize(("x", "y", "z", "fine"), [
    (0.2, -0.1, 0.1, True), (0.2, -0.1, MARGIN_M + 1e-4, True), (0.2, -0.1, MARGIN_M - 1e-4, False),
    (0.2, -0.549, 0.1, False), (0.2, -0.547, 0.1, True), (-0.099, -0.2, 0.1, False), (-0.097, -0.2, 0.1, True),
])
def test_the_box_holds_to_a_margin(
    space: Space, arms: dict[str, ArmKinematics], x: float, y: float, z: float, fine: bool
) -> None:
    joints = reaching(arms, x, y, z)
    assert np.allclose(arms["right"].pinch(joints[RIGHT]), (x, y, z), atol=1e-6), "the case is in reach"
    breach = space.breach(joints)
    assert (breach is None) is fine
    assert fine or breach[0] is Refusal.OUTSIDE_WORKSPACE


def test_arms_that_come_together_are_too_close(space: Space, arms: dict[str, ArmKinematics]) -> None:
    """Both hands straight down: the palms have a half width of 0.056 m across the fingers."""
    gaps = {}
    for apart in (0.30, 0.19, 0.16, 0.02):
        joints = HOME.copy()
        for arm, y in (("left", apart / 2), ("right", -apart / 2)):
            joints[FULL_SPEC.arm_slice(arm)][:-1] = arms[arm].solve_down(0.2, y, 0.1, 0.0)
        gaps[apart] = space.breach(joints)
    assert gaps[0.30] is None
    assert gaps[0.19] is None
    assert gaps[0.16][0] is Refusal.ARMS_TOO_CLOSE, "0.16 - 2 x 0.056 < 0.06"
    assert gaps[0.02][0] is Refusal.ARMS_TOO_CLOSE


def test_arms_at_a_border_wait_for_no_plan_while_theirs_goes_on(arms: dict[str, ArmKinematics]) -> None:
    follower = Follower(Executor(FULL_SPEC))
    follower.arm()
    plan = plan_to(reaching(arms, 0.2, -0.1, -0.08), follower.now_ns)
    longer = replace(plan, positions_KJ=np.concatenate((plan.positions_KJ, np.repeat(plan.positions_KJ[-1:], 6, 0))))
    assert follower.executor.submit(longer, follower.now_ns).border is Refusal.OUTSIDE_WORKSPACE
    while follower.executor.status(follower.now_ns).slack_s > 0.1:
        follower.run(0.05)
    assert np.ptp(follower.positions[-10:], axis=0).max() == 0, "they stand"
    assert follower.executor.status(follower.now_ns).stall_share == 0
    follower.run(0.5)
    assert follower.executor.status(follower.now_ns).stall_share > 0.1, "now they do"


def test_arms_at_a_border_wait_for_no_plan_while_others_are_offered_that_cannot_be_followed(
    arms: dict[str, ArmKinematics]
) -> None:
    follower = Follower(Executor(FULL_SPEC))
    follower.arm()
    below = reaching(arms, 0.2, -0.1, -0.08)
    plan = plan_to(below, follower.now_ns)
    assert follower.executor.submit(plan, follower.now_ns).border is Refusal.OUTSIDE_WORKSPACE
    refused = 0
    for chunk_id in range(2, 9):
        follower.run(0.4)
        deeper = make_chunk(np.tile(below, (16, 1)), follower.now_ns, chunk_id, contract_hash=HASH)
        merge = follower.executor.submit(deeper, follower.now_ns)
        refused += merge.reason in (Refusal.OUTSIDE_WORKSPACE, Refusal.TOO_FAST)
    assert refused > 2
    status = follower.executor.status(follower.now_ns)
    assert status.slack_s < 0
    assert status.stall_share == 0
    follower.run(2.0)
    assert follower.executor.status(follower.now_ns).stall_share > 0


def test_a_plan_that_leaves_the_workspace_is_followed_up_to_a_stop_before_the_border(
    space: Space, arms: dict[str, ArmKinematics]
) -> None:
    follower = Follower(Executor(FULL_SPEC))
    follower.arm()
    through_the_table = reaching(arms, 0.2, -0.1, -0.08)
    merge = follower.executor.submit(plan_to(through_the_table, follower.now_ns), follower.now_ns)
    assert merge.accepted
    assert merge.border is Refusal.OUTSIDE_WORKSPACE
    follower.run(2.5)
    heights = [arms["right"].pinch(position[RIGHT])[2] for position in follower.positions]
    assert 0 <= min(heights) < 0.06
    assert np.ptp(follower.positions[-20:], axis=0).max() == 0
    status = follower.executor.status(follower.now_ns)
    assert status.borders[Refusal.OUTSIDE_WORKSPACE] == 1
    assert status.mode is Mode.RUN
    further = plan_to(reaching(arms, 0.2, -0.1, -0.3), follower.now_ns, 2, steps=2)
    further = replace(further, positions_KJ=np.repeat(further.positions_KJ[-1:], 16, axis=0))
    for _ in range(3):
        merge = follower.executor.submit(replace(further, chunk_id=3), follower.now_ns)
    assert merge.reason in (Refusal.OUTSIDE_WORKSPACE, Refusal.TOO_FAST, Refusal.DUPLICATE) or merge.border
    back = replace(plan_to(HOME, follower.now_ns, 9), positions_KJ=np.repeat(HOME[None], 16, axis=0))
    assert follower.executor.submit(back, follower.now_ns).border is None
    follower.run(3.0)
    assert np.allclose(follower.positions[-1], HOME, atol=1e-6)


def test_a_plan_that_brings_the_arms_together_is_followed_up_to_the_least_distance(
    space: Space, arms: dict[str, ArmKinematics]
) -> None:
    follower = Follower(Executor(FULL_SPEC))
    follower.arm()
    together = reaching(arms, 0.2, 0.0, 0.1)
    together[LEFT] = reaching(arms, 0.2, 0.01, 0.1, "left")[LEFT]
    merge = follower.executor.submit(plan_to(together, follower.now_ns), follower.now_ns)
    assert merge.border is Refusal.ARMS_TOO_CLOSE
    follower.run(2.5)
    exact = Space(FULL_SPEC, margin_m=0.0)
    assert all(exact.breach(position) is None for position in follower.positions[::5])
    assert np.abs(follower.positions[-1] - HOME).max() > 0.05, "it went some of the way"


def test_arms_that_stand_outside_are_not_armed(arms: dict[str, ArmKinematics]) -> None:
    follower = Follower(Executor(FULL_SPEC), position_J=reaching(arms, 0.2, -0.1, -0.03))
    follower.tick()
    reply = follower.executor.arm(follower.now_ns)
    assert not reply.ok
    assert "right hand" in reply.message
    assert "outside_workspace" in reply.message


def test_a_stop_never_leaves_the_workspace(arms: dict[str, ArmKinematics]) -> None:
    """Stopped at every moment of a plan that skims the table."""
    low = reaching(arms, 0.2, -0.1, 0.004)
    for tick in range(20, 150, 13):
        follower = Follower(Executor(FULL_SPEC))
        follower.arm()
        assert follower.executor.submit(plan_to(low, follower.now_ns), follower.now_ns).accepted
        follower.run(tick * PERIOD_NS / 1e9)
        follower.executor.stop(follower.now_ns)
        follower.run(0.6)
        assert min(arms["right"].pinch(position[RIGHT])[2] for position in follower.positions) >= 0


URDF = """<robot name="two">
  <link name="world"/>
  {arms}
</robot>"""
URDF_ARM = """<joint name="{n}_slide" type="prismatic"><parent link="world"/><child link="{n}_link"/>
  <origin xyz="0 {y} 0.2"/><axis xyz="1 0 0"/><limit lower="-1" upper="1" effort="1" velocity="1"/></joint>
  <link name="{n}_link"><inertial><mass value="1"/><inertia ixx="1" iyy="1" izz="1" ixy="0" ixz="0" iyz="0"/></inertial>
  <collision><geometry><sphere radius="0.05"/></geometry></collision></link>
  <joint name="{n}_fixed" type="fixed"><parent link="{n}_link"/><child link="{n}_tool"/><origin xyz="0.1 0 0"/></joint>
  <link name="{n}_tool"/>"""


def test_a_urdf_serves_as_well(tmp_path: Path) -> None:
    path = tmp_path / "two.urdf"
    arms = "".join(URDF_ARM.format(n=name, y=y) for name, y in (("left", 0.08), ("right", -0.08)))
    path.write_text(URDF.format(arms=arms))
    joint = replace(FULL_SPEC.joints[0], lower=-1.0, upper=1.0, home=0.0)
    spec = replace(FULL_SPEC, kinematics=KinematicsSpec("urdf", str(path)), arms=tuple(
        replace(arm, end_effector_frame=f"{arm.name}_tool", joints=(replace(joint, name=f"{arm.name}_slide"),))
        for arm in FULL_SPEC.arms
    ))
    space = Space(spec)
    assert space.breach(np.array([0.3, 0.0])) is None
    assert np.allclose(space.robot.hands(), [[0.4, 0.08, 0.2], [0.1, -0.08, 0.2]])
    assert space.breach(np.array([0.0, 0.51]))[0] is Refusal.OUTSIDE_WORKSPACE
    close = Space(replace(spec, arm_distance_m=0.07))
    assert close.breach(np.array([0.0, 0.0]))[0] is Refusal.ARMS_TOO_CLOSE, "0.16 - 2 x 0.05 < 0.07"
    assert close.breach(np.array([0.1, 0.0])) is None


def sliding(tmp_path: Path, arm_distance_m: float) -> Space:
    """Two spheres of radius 0.05 m on rails along x, 0.16 m apart."""
    path = tmp_path / "rails.urdf"
    arms = "".join(URDF_ARM.format(n=name, y=y) for name, y in (("left", 0.08), ("right", -0.08)))
    path.write_text(URDF.format(arms=arms))
    joint = replace(FULL_SPEC.joints[0], lower=-1.0, upper=1.0, home=0.0)
    return Space(replace(
        FULL_SPEC, kinematics=KinematicsSpec("urdf", str(path)), arm_distance_m=arm_distance_m,
        workspace_m=dict.fromkeys("xyz", (-9.0, 9.0)), arms=tuple(
            replace(arm, end_effector_frame=f"{arm.name}_tool", joints=(replace(joint, name=f"{arm.name}_slide"),))
            for arm in FULL_SPEC.arms
        )))


@pytest.mark.parametrize(("distance_m", "fine"), [(0.0570, True), (0.0583, False), (0.0600, False)])
def test_arms_that_pass_each_other_between_two_looks_are_seen_to_be_too_close(
    tmp_path: Path, distance_m: float, fine: bool
) -> None:
    """At 3 m/s each and looks every 0.025 s they are 0.16 - 2 x 0.05 = 0.06 m apart just between two of these, and
    hypot(0.16, 0.075) - 0.1 = 0.077 m at each."""
    space, speed = sliding(tmp_path, distance_m), 3.0
    half_s = 2.5 * SAMPLE_S
    ends = np.array([[[-1.0, 1.0], [1.0, -1.0], [0.0, 0.0]], [[1.0, -1.0], [1.0, -1.0], [0.0, 0.0]]])
    ends[:, :2] *= np.array([speed * half_s, speed])[:, None]
    curve = Curve.from_motions(np.array([0.0, 2 * half_s]), ends)
    breach = space.first_breach(curve)
    assert (breach is None) is fine
    assert fine or (breach[1] is Refusal.ARMS_TOO_CLOSE and abs(breach[0] - half_s) <= SAMPLE_S / 2)


def test_what_both_arms_hang_from_is_no_neighbour_of_itself(tmp_path: Path) -> None:
    torso = """<link name="torso"><inertial><mass value="9"/><inertia ixx="1" iyy="1" izz="1" ixy="0" ixz="0" iyz="0"/>
      </inertial><collision><geometry><box size="0.1 0.1 0.3"/></geometry></collision></link>
      <joint name="stand" type="fixed"><parent link="world"/><child link="torso"/></joint>"""
    arms = "".join(URDF_ARM.format(n=name, y=y) for name, y in (("left", 0.08), ("right", -0.08)))
    path = tmp_path / "torso.urdf"
    path.write_text(URDF.format(arms=torso + arms.replace('<parent link="world"/>', '<parent link="torso"/>')))
    joint = replace(FULL_SPEC.joints[0], lower=-1.0, upper=1.0, home=0.0)
    spec = replace(FULL_SPEC, arm_distance_m=0.05, kinematics=KinematicsSpec("urdf", str(path)), arms=tuple(
        replace(arm, end_effector_frame=f"{arm.name}_tool", joints=(replace(joint, name=f"{arm.name}_slide"),))
        for arm in FULL_SPEC.arms
    ))
    assert Space(spec).breach(np.zeros(2)) is None
    close = Space(replace(spec, arm_distance_m=0.07))
    assert close.breach(np.zeros(2))[0] is Refusal.ARMS_TOO_CLOSE, "the arms themselves are 0.16 - 2 x 0.05 apart"


@pytest.mark.parametrize(("form", "source", "words"), [
    ("sdf", "x", "unknown format"), ("mjcf", "/nowhere.xml", "cannot be read"),
])
def test_unusable_kinematics_say_how_to_fix_it(form: str, source: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Space(replace(FULL_SPEC, kinematics=KinematicsSpec(form, source)))


def test_a_contract_that_names_a_missing_frame_is_refused() -> None:
    arm = replace(FULL_SPEC.arms[0], end_effector_frame="nothing")
    with pytest.raises(ConfigError, match="end-effector frame"):
        Space(replace(FULL_SPEC, arms=(arm, *FULL_SPEC.arms[1:])))
