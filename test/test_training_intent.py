"""What tells the actions what to do: the value map, and its two ablations at the same budget."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from training_kit import encode, write_episodes
from wam_kit import CONFIG, LAYOUT, SPEC, STEP_NS, LetterEncoder, make_canvas, make_checkpoint, make_state

from starry_ros.errors import ConfigError
from starry_ros.paths import model_dir
from starry_ros.training import train
from starry_ros.training.budgets import TrainConfig
from starry_ros.training.dataset import Demonstrations, load_demonstrations
from starry_ros.training.forward import losses
from starry_ros.training.losses import total
from starry_ros.training.same_run import begun_run, require_same_model
from starry_ros.training.train import Trainer
from starry_ros.wam.autoencoder import Autoencoder, AutoencoderConfig
from starry_ros.wam.checkpoint import load_checkpoint
from starry_ros.wam.config import WamConfig
from starry_ros.wam.graph_files import MANIFEST, architecture
from starry_ros.wam.layers import Keys
from starry_ros.wam.load import reference
from starry_ros.wam.masks import CURRENT_FRAME, FUTURE_FRAMES, PAST_ACTIONS, PAST_FRAMES, VALUE
from starry_ros.wam.model import Groups, Ropes, WorldActionModel, draw_bias
from starry_ros.wam.runtimes.base import Noise, Prediction
from starry_ros.wam.runtimes.runner import GraphRunner
from starry_ros.wam.session import Session

INTENTS = ("value", "blind", "video")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Demonstrations:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("data")
    return load_demonstrations(write_episodes(folder / "d", (40,)), folder / "cache", encode)


@pytest.fixture(autouse=True)
def _letters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train, "MiniLmEncoder", LetterEncoder)


def config(intent: str) -> WamConfig:
    return dataclasses.replace(CONFIG, intent=intent)


def model_of(intent: str) -> WorldActionModel:
    """The same weights for every intent."""
    model = WorldActionModel(config(intent))
    model.load_state_dict(make_checkpoint().model)
    return model.eval()


def make_trainer(intent: str, data: Demonstrations, out: Path) -> Trainer:
    torch.manual_seed(9)
    coder = Autoencoder(AutoencoderConfig(LAYOUT.height_px, LAYOUT.width_px, CONFIG.latent_channels, (8, 8, 8)))
    return Trainer(SPEC, data, coder.eval(), TrainConfig("tiny", steps=3, batch=4, warm_up=1), out, config(intent))


def predict(runtime: GraphRunner) -> Prediction:
    """A plan for random words, canvases and noise, the second of its episode."""
    c, rng = runtime.config, np.random.default_rng(0)

    def draw(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape, dtype=np.float32)

    runtime.set_text(draw(c.text_tokens, c.text_width), np.ones(c.text_tokens, np.float32))
    for step in (0, 4):
        runtime.observe(rng.integers(0, 256, (c.canvas_height_px, c.canvas_width_px, 3), dtype=np.uint8), step)
        if step == 0:
            runtime.commit(draw(c.history_actions, c.joints), np.ones(c.history_actions, np.float32))
    return runtime.predict(Noise(draw(1, c.frame_tokens, c.latent_token_width),
                                 draw(1, c.frame_tokens, c.value_token_width), draw(1, c.chunk_steps, c.joints)),
                           draw(c.joints))


def test_the_shipped_model_is_described_and_exported_as_before_there_were_intents() -> None:
    folder = model_dir("tiny")
    checkpoint = load_checkpoint(folder, SPEC)
    assert checkpoint.config.intent == "value"
    written = json.loads((folder / "config.json").read_text())["config"]
    assert json.dumps(checkpoint.config.to_json_dict()) == json.dumps(written)
    assert architecture(checkpoint) == json.loads((folder / MANIFEST).read_text())["architecture"]


@torch.no_grad()
def test_actions_are_to_the_bit_those_of_the_keys_and_points_that_the_intent_names() -> None:
    """The action stream written out: current frame, executed actions and one more group; landing points or nothing."""
    g = torch.Generator().manual_seed(3)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=g)

    def keys(tokens: int) -> Keys:
        shape = (1, CONFIG.heads, tokens, CONFIG.head_dim)
        return Keys([(normal(*shape), normal(*shape)) for _ in range(CONFIG.layers)])

    n = CONFIG.frame_tokens
    groups: Groups = {name: keys(n) for name in (PAST_FRAMES, CURRENT_FRAME, FUTURE_FRAMES, VALUE)}
    groups[PAST_ACTIONS] = keys(5)
    chunk, level, rope = normal(1, 2, CONFIG.chunk_steps, CONFIG.joints), torch.full((1,), 0.6), Ropes(CONFIG)
    state, landing, seen = normal(1, CONFIG.joints), torch.rand(1, 2, 3, 2, generator=g), normal(1, 2, 3)
    for intent, third in (("value", VALUE), ("blind", VALUE), ("video", FUTURE_FRAMES)):
        model = model_of(intent)
        first = model.landing.layers[0]
        assert isinstance(first, torch.nn.Linear)
        nothing = torch.zeros(1, first.in_features - CONFIG.joints)
        aim = model.landing(landing, seen, state) if intent == "value" else model.landing.layers(
            torch.cat([nothing, state], dim=-1))
        actions = (model.action_in(chunk) + model.step_position).flatten(1, 2)
        h = torch.cat([model.state_in(state)[:, None], actions], dim=1) + aim[:, None]
        shown = [groups[name] for name in (CURRENT_FRAME, PAST_ACTIONS, third)]
        h, _ = model.action(h, level, rope.chunk(8, 2), shown, own_bias=draw_bias(2, CONFIG.chunk_steps))
        wanted = model.action_out(h[:, 1:]).unflatten(1, (2, CONFIG.chunk_steps))
        assert torch.equal(model.act(chunk, level, rope.chunk(8, 2), groups, state, landing, seen), wanted)
        other = model.act(chunk, level, rope.chunk(8, 2), groups, state, 1 - landing, seen + 1)
        assert torch.equal(other, wanted) == (intent != "value")


@pytest.mark.parametrize("intent", INTENTS)
def test_a_plan_depends_on_the_tokens_and_points_that_the_intent_names_and_on_no_others(intent: str) -> None:
    checkpoint = dataclasses.replace(make_checkpoint(), config=config(intent))
    plan = predict(reference(checkpoint))

    def moved_by(graph: str, *names: str) -> bool:
        runtime = reference(checkpoint)
        engine = runtime.engines[graph]
        runtime.engines[graph] = lambda arrays: {name: value + 0.5 * (name in names)
                                                 for name, value in engine(arrays).items()}
        return not np.array_equal(predict(runtime).actions_KJ, plan.actions_KJ)

    assert moved_by("imagine", "future_k", "future_v"), "by way of the value stream, or directly"
    assert moved_by("predict_value", "value_k", "value_v") == (intent != "video")
    assert moved_by("predict_value", "landing", "seen") == (intent == "value")
    assert bool(plan.map_EYX.any()) == bool(plan.seen_EV.any()) == (intent != "blind"), "a blind model shows no map"


def test_labels_of_the_value_map_neither_teach_a_blind_model_nor_are_shown_to_it(
    data: Demonstrations, tmp_path: Path
) -> None:
    trainers = {intent: make_trainer(intent, data, tmp_path) for intent in INTENTS}
    drawn = trainers["blind"].sampler.draw(0, 0)
    batch = dataclasses.replace(drawn, rival_B=1 - drawn.text_B, rivalled_B=np.ones_like(drawn.rivalled_B))
    moved = batch.events_BEV4[..., [1, 0, 2, 3]]
    elsewhere = dataclasses.replace(batch, events_BEV4=moved, rivalled_B=0 * batch.rivalled_B)
    for intent, trainer in trainers.items():
        def terms(which, trainer=trainer, intent=intent):  # type: ignore[no-untyped-def]
            return [losses(trainer.model, which, trainer.texts, trainer.stats, torch.Generator().manual_seed(seed))
                    for seed in range(4 if intent == "blind" else 1)]

        found = terms(batch)
        of_map = {name for name in found[0] if name.startswith("value")}
        assert bool(of_map) == (intent != "blind")
        assert {"video", "action"} <= set(found[0])
        same = all(torch.equal(a[name], b[name]) for a, b in zip(found, terms(elsewhere), strict=True)
                   for name in a if name in b)
        assert same == (intent == "blind")
        trainer.model.zero_grad(set_to_none=True)
        total(found[0], trainer.config.weights).backward()
        gradients = {name: parameter.grad is not None and bool(parameter.grad.any())
                     for name, parameter in trainer.model.named_parameters()}
        assert gradients["value_head.question.weight"] == (intent != "blind")
        assert gradients["landing.layers.2.weight"]
        assert gradients["value.blocks.0.qkv.weight"], "the tokens learn: from the map, or from the actions"


@pytest.mark.parametrize("intent", ["blind", "video"])
def test_three_steps_of_training_are_resumed_saved_loaded_and_plan(
    intent: str, data: Demonstrations, tmp_path: Path
) -> None:
    first = make_trainer(intent, data, tmp_path)
    for _ in range(2):
        first.step()
    first.save()
    again = make_trainer(intent, data, tmp_path)
    begun = begun_run(tmp_path)
    assert begun is not None
    require_same_model(tmp_path, begun, again.wam, SPEC, again.autoencoder)
    assert first.step() == again.step()
    assert all(torch.equal(value, again.model.state_dict()[name]) for name, value in first.model.state_dict().items())
    again.save()
    checkpoint = load_checkpoint(tmp_path / "checkpoint", SPEC)
    assert (checkpoint.config, checkpoint.training["steps_done"]) == (config(intent), 3)
    assert set(checkpoint.model) == set(make_checkpoint().model)
    with pytest.raises(ConfigError, match=f"got --intent value; expected --intent {intent}"):
        require_same_model(tmp_path, begun, config("value"), SPEC, again.autoencoder)
    session = Session(reference(checkpoint), checkpoint.stats, LetterEncoder(), SPEC, LAYOUT.layout_hash)
    session.reset("put the red block on the pad")
    for i in range(1, 3):
        session.observe(make_canvas(4 * i * STEP_NS), make_state(4 * i * STEP_NS))
        plan = session.plan()
        assert np.isfinite(plan.chunk.positions_KJ).all()
        assert {point.confidence > 0 for point in plan.value_map.landing} == {intent != "blind"}


def test_an_intent_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ConfigError, match="no-such"):
        config("no-such")
    with pytest.raises(ConfigError, match="one after the other"):
        dataclasses.replace(CONFIG, intent="video", coupling="joint")
    with pytest.raises(ConfigError, match="no value map to denoise"):
        dataclasses.replace(CONFIG, intent="blind", value_steps=2)
