"""Where hands are, by the contract's joints."""

import dataclasses

import numpy as np

from starry_ros.paths import robot_file
from starry_ros.robot_spec import load_robot_spec
from starry_ros.sim.forward import ForwardKinematics

SPEC = load_robot_spec(robot_file("bimanual_sim"))


def test_a_joint_that_counts_the_other_way_is_turned_round():
    arm = SPEC.arms[0]
    waist = dataclasses.replace(arm.joints[0], sign=-1)
    turned = dataclasses.replace(arm, joints=(waist, *arm.joints[1:]))
    spec = dataclasses.replace(SPEC, arms=(turned, *SPEC.arms[1:]))
    there = SPEC.limit("home").copy()
    counted = there.copy()
    counted[0] = -there[0]
    assert there[0] != 0
    np.testing.assert_allclose(ForwardKinematics(spec).hands(counted[None]), ForwardKinematics(SPEC).hands(there[None]))
    assert not np.allclose(ForwardKinematics(SPEC).hands(counted[None]), ForwardKinematics(SPEC).hands(there[None]))
