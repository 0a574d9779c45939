"""What training hides now and then: noise on past frames, samples without a sentence; and what it must leave alone."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from test_training_resume import TRAINING, make_trainer
from test_training_units import narrow_presets
from training_kit import load, write_episodes
from wam_kit import CONFIG, make_checkpoint

from starry_ros.training.augment import MOST_NOISE, Augment
from starry_ros.training.dataset import Batch, Demonstrations, Sampler
from starry_ros.training.forward import TextTable, losses
from starry_ros.wam.model import pool

SILENT = 2
"""The number of the sentence after the two of the data."""


@pytest.fixture(autouse=True)
def _narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    narrow_presets(monkeypatch)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Demonstrations:
    root = tmp_path_factory.mktemp("data")
    found = load(write_episodes(root / "d", (40,)), root / "cache")
    return dataclasses.replace(found, latents_FCYX=found.latents_FCYX / 40)


def sampler(data: Demonstrations, augment: Augment, batch: int = 16, no_history: float = 0.0) -> Sampler:
    return Sampler(data, batch=batch, future_steps=8, history_slots=2, history_actions=8, seed=0,
                   no_history=no_history, augment=augment)


def differences(one: Batch, other: Batch) -> set[str]:
    return {field.name for field in dataclasses.fields(Batch)
            if not np.array_equal(getattr(one, field.name), getattr(other, field.name))}


def test_noise_is_added_to_past_frames_and_to_nothing_else(data: Demonstrations) -> None:
    plain, noisy = sampler(data, Augment()), sampler(data, Augment(noisy_history=1.0))
    past = {"history_latents_BRCYX", "history_canvas_BRHWC"}
    assert all(differences(plain.draw(step), noisy.draw(step)) == past for step in range(5))
    without = sampler(data, Augment(noisy_history=1.0), no_history=1.0)
    assert differences(without.draw(0), sampler(data, Augment(), no_history=1.0).draw(0)) == set()


def test_past_latents_lie_on_the_way_to_noise_at_levels_uniform_up_to_a_half(data: Demonstrations) -> None:
    """The level is told from the data: what is left is (1 - s) x, and its residue has deviation s."""
    plain, noisy = sampler(data, Augment()), sampler(data, Augment(noisy_history=1.0))
    levels = []
    for step in range(12):
        clean = plain.draw(step).history_latents_BRCYX.reshape(-1, CONFIG.latent_channels * 120)
        seen = noisy.draw(step).history_latents_BRCYX.reshape(clean.shape)
        assert seen.dtype == np.float32
        for x, x_s in zip(clean, seen, strict=True):
            left = x_s.mean() / x.mean() if x.mean() > 0.5 else np.nan
            s = x_s.std()
            levels.append(s)
            assert np.isnan(left) or left == pytest.approx(1 - s, abs=0.2)
    assert max(levels) < MOST_NOISE * 1.06 == 0.53
    assert np.histogram(levels, bins=5, range=(0, 0.5))[0].min() > 0.12 * len(levels)


def test_past_pixels_get_noise_of_the_same_level(data: Demonstrations) -> None:
    """The synthetic canvases are uniform noise themselves: blended with noise of level s, they keep 1 - s of it."""
    plain, noisy = sampler(data, Augment()), sampler(data, Augment(noisy_history=1.0))
    a, b = plain.draw(3), noisy.draw(3)
    for sample in range(4):
        s = b.history_latents_BRCYX[sample, 0].std()
        clean, seen = (batch.history_canvas_BRHWC[sample, 0].astype(float).ravel() - 127.5 for batch in (a, b))
        noise = (seen - (1 - s) * clean)[np.abs(clean) < 20] / 127.5
        spread = np.median(np.abs(noise)) / 0.6745  # of a normal distribution, though its tails are cut off
        assert spread == pytest.approx(s, abs=0.02)


@pytest.mark.parametrize("share", [0.25, 0.6])
def test_as_many_samples_are_noisy_and_as_many_silent_as_is_asked_for(share: float, data: Demonstrations) -> None:
    plain, hiding = sampler(data, Augment(), 64), sampler(data, Augment(share, share), 64)
    noisy, silent = [], []
    for step in range(12):
        a, b = plain.draw(step), hiding.draw(step)
        changed_BR = (a.history_latents_BRCYX != b.history_latents_BRCYX).any((2, 3, 4))
        assert (changed_BR == changed_BR[:, :1]).all(), "all past frames of a sample, or none"
        noisy += changed_BR[:, 0].tolist()
        silent += (b.text_B == SILENT).tolist()
        assert np.array_equal(a.text_B[b.text_B != SILENT], b.text_B[b.text_B != SILENT])
        assert differences(a, b) <= {"history_latents_BRCYX", "history_canvas_BRHWC", "text_B"}
    assert np.mean(noisy) == pytest.approx(share, abs=0.06)
    assert np.mean(silent) == pytest.approx(share, abs=0.06)
    assert abs(np.corrcoef(noisy, silent)[0, 1]) < 0.15


def test_what_is_hidden_is_a_function_of_seed_step_and_rank(data: Demonstrations) -> None:
    augment = Augment(0.5, 0.5)
    one, other = sampler(data, augment), sampler(data, augment)
    other.draw(0)
    assert differences(one.draw(5), other.draw(5)) == set()
    assert {"history_latents_BRCYX", "text_B"} <= differences(one.draw(5), one.draw(5, rank=1))


def test_silence_is_a_sentence_without_anything_that_tells_sentences_apart() -> None:
    model = make_checkpoint().build_model()
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(5, CONFIG.text_tokens, CONFIG.text_width, generator=generator)
    mask = (torch.arange(CONFIG.text_tokens) < torch.tensor([2, 3, 6, 4, 1])[:, None]).float()
    table = TextTable(tokens, mask).with_silence()
    assert torch.equal(table.tokens_STD[:5], tokens)
    assert torch.equal(table.mask_ST[:5], mask)
    model.set_text_statistics(pool(tokens, mask))
    sentence = model.encode_text(table.tokens_STD, table.mask_ST)
    nothing = torch.cat([model.sentence.bias, model.sentence_modulation.bias])
    torch.testing.assert_close(sentence.vectors[5].flatten(), nothing, rtol=0, atol=1e-4)
    assert (sentence.vectors[:5].flatten(1) - nothing).abs().amax(1).min() > 0.05
    bias = sentence.keys.bias
    assert bias is not None
    assert (bias[:, 0, 0] == 0).sum(1).tolist() == [2, 3, 6, 4, 1, 1], "a key is left to attend to"


def test_samples_without_a_sentence_give_finite_losses_and_gradients_that_no_sentence_changes(
    data: Demonstrations
) -> None:
    checkpoint = make_checkpoint()
    batch = sampler(data, Augment(0.5, 1.0), batch=4).draw(0)
    batch = dataclasses.replace(batch, rivalled_B=np.zeros(4, np.float32))
    assert (batch.text_B == SILENT).all()

    def run(scale: float) -> tuple[dict[str, float], torch.Tensor]:
        tokens = torch.randn(2, CONFIG.text_tokens, CONFIG.text_width, generator=torch.Generator().manual_seed(1))
        table = TextTable(tokens, torch.ones(2, CONFIG.text_tokens)).with_silence()
        table.tokens_STD[:2] *= scale
        model = checkpoint.build_model()
        terms = losses(model, batch, table, checkpoint.stats, torch.Generator().manual_seed(0))
        torch.stack(list(terms.values())).sum().backward()
        gradients = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
        return {name: float(term.detach()) for name, term in terms.items()}, gradients

    terms, gradients = run(1.0)
    assert np.isfinite(list(terms.values())).all()
    assert torch.isfinite(gradients).all()
    other, same = run(3.0)
    assert other == terms
    assert torch.equal(gradients, same)


def test_training_with_and_without_them_differs_and_both_resume_to_the_bit(data: Demonstrations, tmp_path: Path
                                                                          ) -> None:
    hiding = dataclasses.replace(TRAINING, noisy_history=0.5, text_dropout=0.5)
    straight, plain = make_trainer(data, tmp_path / "a", hiding), make_trainer(data, tmp_path / "b")
    wanted = [straight.step() for _ in range(4)]
    assert [plain.step() for _ in range(4)] != wanted
    first = make_trainer(data, tmp_path / "c", hiding)
    got = [first.step() for _ in range(2)]
    first.save()
    again = make_trainer(data, tmp_path / "c", hiding)
    assert got + [again.step() for _ in range(2)] == wanted
    assert first.checkpoint().training["text_dropout"] == 0.5
