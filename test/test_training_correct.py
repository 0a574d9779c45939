"""Demonstrations that begin with a model's own doing."""

from dataclasses import dataclass, field

import numpy as np
import pytest

from starry_ros.errors import ConfigError
from starry_ros.paths import model_dir, robot_file
from starry_ros.robot_spec import load_robot_spec
from starry_ros.sim.expert_policy import chunk_at
from starry_ros.sim.tasks import drawn_case, evaluation_case
from starry_ros.training.correct import Relay
from starry_ros.training.episodes import Source
from starry_ros.training.generate import generate
from starry_ros.types import Canvas, Plan, RobotState, ValueMap

ROBOT = robot_file("bimanual_sim")
SPEC = load_robot_spec(ROBOT)
NS_PER_S = 1_000_000_000


@dataclass
class Constant:
    """A policy whose chunks ask for one value at every joint; counts on its own."""

    value: float
    heard: list[str] = field(default_factory=list)
    chunks: int = 40

    def reset(self, instruction):
        self.heard.append(instruction)
        return 17

    def set_instruction(self, text):
        self.heard.append(text)
        return 23

    def plan(self, canvas, state):
        self.chunks += 1
        positions = np.full((SPEC.action.chunk_steps, len(SPEC.joints)), self.value)
        chunk = chunk_at(SPEC, canvas.stamp_ns, positions, self.chunks, 17, 23)
        return Plan(chunk, ValueMap(canvas.stamp_ns, "", 4, np.zeros((2, 2, 2), np.float32), ()), None)


def look(at_s: float, speed: float = 0.0) -> tuple[Canvas, RobotState]:
    image = np.zeros((8, 8, 3), np.uint8)
    zeros = np.zeros(len(SPEC.joints))
    return Canvas(int(at_s * NS_PER_S), "", image, ()), RobotState(int(at_s * NS_PER_S), zeros, zeros + speed)


def test_the_expert_takes_over_when_the_time_of_the_model_is_up():
    relay = Relay(Constant(1.0), Constant(2.0), 3.0)
    relay.reset("lift the tray")
    asked = [relay.plan(*look(10 + s, speed=0.5)).chunk.positions_KJ[0, 0] for s in (0.0, 2.9, 3.0, 9.0)]
    assert asked == [1.0, 1.0, 2.0, 2.0]


def test_the_expert_takes_over_for_good_when_the_arms_rest():
    relay = Relay(Constant(1.0), Constant(2.0), 60.0)
    relay.reset("lift the tray")
    moves = [(0.0, 0.0), (0.4, 0.5), (0.8, 0.5), (1.2, 0.0), (1.6, 0.0), (1.8, 0.0), (2.2, 0.5)]
    asked = [relay.plan(*look(10 + s, speed)).chunk.positions_KJ[0, 0] for s, speed in moves]
    assert asked == [1.0, 1.0, 1.0, 1.0, 1.0, 2.0, 2.0]
    assert relay.taken_over
    relay.reset("lift the tray")
    assert not relay.taken_over


def test_plans_of_both_carry_one_numbering():
    relay = Relay(Constant(1.0), Constant(2.0, chunks=3), 1.0)
    epoch = relay.reset("press the red button")
    chunks = [relay.plan(*look(s)).chunk for s in (0.0, 0.5, 1.0)]
    assert [chunk.chunk_id for chunk in chunks] == [1, 2, 3]
    assert {chunk.epoch for chunk in chunks} == {epoch}
    swapped = relay.set_instruction("press the blue button")
    assert relay.plan(*look(2.0)).chunk.instruction_id == swapped != chunks[-1].instruction_id


def test_both_hear_every_sentence():
    model, expert = Constant(1.0), Constant(2.0)
    relay = Relay(model, expert, 1.0)
    relay.reset("press the red button")
    relay.set_instruction("press the blue button")
    assert model.heard == expert.heard == ["press the red button", "press the blue button"]


@pytest.mark.parametrize(("task", "kind", "model"), [
    ("place_block_pad", "drop", model_dir("tiny")), ("place_block_pad", "dropped", None),
    ("press_button", "dropped", model_dir("tiny")), ("stack_blocks_two", "swap", model_dir("tiny")),
])
def test_the_experts_kinds_and_the_cases_forced_upon_a_model_are_told_apart(task, kind, model):
    with pytest.raises(ConfigError, match="no such kind of episode"):
        Source(task, 1, ROBOT, kind=kind, model=model)


def test_what_is_asked_for_comes_upon_the_model_in_every_episode(tmp_path):
    meta = generate(tmp_path, Source("place_block_pad", 3001, ROBOT, kind="dropped", model=model_dir("tiny")), 1)
    assert meta["kinds"] == {"dropped": 1}
    with np.load(tmp_path / "episodes" / "000000.npz", allow_pickle=False) as data:
        jaw_T, asked_T = data["position_TJ"][:, -1], data["command_TJ"][:, -1]
    assert ((jaw_T - asked_T) > 0.01).any(), "the jaw was forced open against what was commanded"


def test_layouts_are_those_of_training_and_not_of_evaluation():
    trained, held_out = drawn_case("train", 3, "press_button"), evaluation_case(3, "press_button")
    assert trained[0] != held_out[0]
    texts = {drawn_case("train", seed, "press_button", "hard")[2] for seed in range(30)}
    unseen = {evaluation_case(seed, "press_button", "hard")[2] for seed in range(30)}
    assert not texts & unseen


def test_an_episode_of_the_shipped_model_is_labelled_by_the_expert_and_ends_in_success(tmp_path):
    meta = generate(tmp_path, Source("press_button", 3001, ROBOT, model=model_dir("tiny")), 1)
    assert meta["kinds"] == {"corrected": 1}
    with np.load(tmp_path / "episodes" / "000000.npz", allow_pickle=False) as data:
        assert np.allclose(np.diff(data["time_s_T"]), 0.1, atol=1e-4)
        plan_TKJ, command_TJ, stage_T = data["plan_TKJ"], data["command_TJ"], data["stage_T"]
    assert stage_T[-1] == 2
    expert_went_on = np.abs(plan_TKJ[:-1, 0] - command_TJ[1:]).max(axis=1)
    assert np.median(expert_went_on) > 0.01, "who acts is the model, so what was done is not what the expert asked for"
