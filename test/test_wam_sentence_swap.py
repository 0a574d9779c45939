"""A new sentence on a slow machine: nothing that was imagined for the old one serves under the new one's name."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from planner_kit import RED, SlowPlanner
from test_wam_wan_session import NARROW, OWN, RAW, show, write_model
from test_wam_wan_session import SPEC as WAN_SPEC
from wam_kit import LAYOUT, SPEC, STEP_NS, LetterEncoder, make_canvas, make_checkpoint, make_state

from starry_ros.types import Plan
from starry_ros.wam.ladder import LadderConfig, Rung
from starry_ros.wam.load import load_session
from starry_ros.wam.runtimes.base import Effort
from starry_ros.wam.runtimes.torch_runtime import torch_runtime
from starry_ros.wam.session import Session
from starry_ros.wam.wan.adapter import transformer_config
from starry_ros.wam.wan.load import random_model, save_streams

BLUE = "put the blue block on the pad"
PATIENT = LadderConfig(budget_s=1.0, dream_age_s=5.0)
QUICKEST = Effort(video=False, value=False)
LOW = {Rung.REUSE_LATENTS: {"video": 1.2, "value": 0.1, "action": 0.1},
       Rung.ACTION_ONLY: {"video": 1.0, "value": 1.0, "action": 0.1}}
"""Times of the stages that lead to each of the rungs that reuse, with a budget of 1 s."""


def open_session(sentence: str) -> Session:
    checkpoint = make_checkpoint()
    runtime = torch_runtime(checkpoint.build_model(), checkpoint.autoencoder)
    session = Session(runtime, checkpoint.stats, LetterEncoder(), SPEC, LAYOUT.layout_hash)
    session.reset(sentence)
    session.observe(make_canvas(STEP_NS), make_state(STEP_NS))
    return session


def same(first: Plan, second: Plan) -> bool:
    return (np.array_equal(first.chunk.positions_KJ, second.chunk.positions_KJ)
            and np.array_equal(first.value_map.values_EHW, second.value_map.values_EHW))


@pytest.mark.parametrize("rung", LOW)
def test_the_plan_after_a_swap_imagines_and_maps_anew_on_every_rung(rung: Rung) -> None:
    slow = SlowPlanner(LOW[rung], PATIENT)
    slow.until(rung)
    ran = slow.graphs_of(lambda: slow.plan())
    assert "imagine" not in ran, "a rung that reuses"
    identity = slow.planner.set_instruction(BLUE)
    ran = slow.graphs_of(lambda: slow.plan())
    assert {"imagine", "predict_value", "act"} <= set(ran)
    assert slow.chunks[-1].instruction_id == identity
    ran = slow.graphs_of(lambda: slow.plan())
    assert "imagine" not in ran, "and reuses the new dream after that"


@pytest.mark.parametrize("rung", LOW)
def test_a_new_episode_reuses_nothing_of_the_last_one(rung: Rung) -> None:
    slow = SlowPlanner(LOW[rung], PATIENT)
    slow.until(rung)
    slow.planner.reset(RED)
    ran = slow.graphs_of(lambda: slow.plan())
    assert {"imagine", "predict_value", "act"} <= set(ran)
    assert slow.planner.ladder.rung in (Rung.FULL, Rung.FEWER_VIDEO_STEPS), "and the rung says so"


def test_a_runtime_asked_to_reuse_what_another_sentence_imagined_imagines_anew() -> None:
    """Oracle: a session that never heard of the old sentence and reuses nothing. History never sees a sentence."""
    swapped, fresh = open_session(RED), open_session(BLUE)
    first, second = swapped.plan(), fresh.plan()
    assert not same(first, second)
    swapped.set_instruction(BLUE)
    assert same(swapped.plan(QUICKEST), fresh.plan())


def test_a_swap_while_something_is_only_supposed_outlives_it() -> None:
    """The sentence stays after `drop`, so what was imagined for the old one must not come back."""
    swapped, fresh = open_session(RED), open_session(BLUE)
    swapped.plan()
    fresh.plan()
    swapped.branch()
    swapped.set_instruction(BLUE)
    swapped.drop()
    assert same(swapped.plan(QUICKEST), fresh.plan())


@pytest.mark.parametrize("grammar", ["lingbot", "diffusers"])
def test_a_published_model_imagines_anew_after_a_swap(grammar: str, tmp_path: Path) -> None:
    """Oracle as above. Every token of LingBot-VA sees the sentence: what was seen last is read again, too."""
    write_model(tmp_path / "m", RAW if grammar == "lingbot" else OWN, grammar)
    if grammar == "diffusers":
        config, _ = transformer_config(OWN, "x")
        config = replace(config, value=NARROW, action=NARROW, latent_channels=4)
        save_streams(random_model(config, torch.float32, "cpu", seed=2), tmp_path / "m" / "streams")
    red, blue, plans = "put the red block", "put the blue block", []
    for sentence, effort in ((red, QUICKEST), (blue, Effort())):
        session = load_session(tmp_path / "m", WAN_SPEC, "torch")
        session.reset(sentence)
        for frame in range(5):  # the current chunk alone
            show(session, frame)
        session.plan()
        session.set_instruction(blue)
        plans.append(session.plan(effort))
    assert same(*plans)
