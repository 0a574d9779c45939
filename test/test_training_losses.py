"""Losses against naive loops and identities of the flow."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from wam_kit import CONFIG

from starry_ros.training.budgets import LossWeights
from starry_ros.training.losses import noised, rival_loss, total, value_losses, value_target, velocity_loss
from starry_ros.wam.sampler import levels
from starry_ros.wam.value_head import ValueHead, ValueOutput

STRIDE = CONFIG.value_stride_px
HEIGHT, WIDTH = CONFIG.canvas_height_px // STRIDE, CONFIG.canvas_width_px // STRIDE
VIEWS = CONFIG.views


def random_events(seed: int, margin_px: float = 0.0) -> np.ndarray:
    """Labels [B, E, V, 4] (u, v, sigma, inside) of contacts inside their view by at least a margin."""
    rng = np.random.default_rng(seed)
    events = np.zeros((3, CONFIG.value_events, len(VIEWS), 4), np.float32)
    for b, e, v in np.ndindex(events.shape[:3]):
        view = VIEWS[v]
        events[b, e, v] = (
            rng.uniform(view.x_px + margin_px, view.x_px + view.width_px - 1 - margin_px),
            rng.uniform(view.y_px + margin_px, view.y_px + view.height_px - 1 - margin_px),
            rng.uniform(3.0, 5.0), rng.random() < 0.7,
        )
    return events


@pytest.mark.parametrize("seed", range(3))
def test_a_value_target_is_a_gaussian_a_view_pixel_by_pixel(seed: int) -> None:
    events = random_events(seed)
    target = value_target(torch.from_numpy(events), CONFIG)
    wanted = np.zeros((3, CONFIG.value_events, HEIGHT, WIDTH))
    for b, e, row, column in np.ndindex(wanted.shape):
        u, v = column * STRIDE + (STRIDE - 1) / 2, row * STRIDE + (STRIDE - 1) / 2
        for i, view in enumerate(VIEWS):
            if view.x_px <= u < view.x_px + view.width_px and view.y_px <= v < view.y_px + view.height_px:
                eu, ev, sigma, inside = (float(number) for number in events[b, e, i])
                wanted[b, e, row, column] = inside * math.exp(-((u - eu) ** 2 + (v - ev) ** 2) / (2 * sigma**2))
    np.testing.assert_allclose(target.map.numpy(), wanted, atol=2e-6)
    np.testing.assert_array_equal(target.inside.numpy(), events[..., 3])


def test_the_probability_of_a_view_sums_to_one_where_the_contact_is_inside_and_to_zero_elsewhere() -> None:
    events = random_events(4)
    target = value_target(torch.from_numpy(events), CONFIG)
    for i, view in enumerate(VIEWS):
        rows = slice(view.y_px // STRIDE, (view.y_px + view.height_px) // STRIDE)
        columns = slice(view.x_px // STRIDE, (view.x_px + view.width_px) // STRIDE)
        mass = target.probability[:, :, rows, columns].sum((-2, -1)).numpy()
        np.testing.assert_allclose(mass, events[:, :, i, 3], atol=1e-5)


def test_the_landing_point_of_a_gaussian_is_its_mean() -> None:
    """The head's own soft-argmax of log-Gaussian logits, against the labelled pixel."""
    events = random_events(5, margin_px=20.0)
    events[..., 3] = 1.0
    target = value_target(torch.from_numpy(events), CONFIG)
    logits = target.map.clamp_min(1e-30).log()
    output = ValueHead(CONFIG)._assemble(logits, torch.zeros(3, CONFIG.value_events, len(VIEWS)))
    for b, e, i in np.ndindex(events.shape[:3]):
        view = VIEWS[i]
        u = view.x_px + float(output.landing[b, e, i, 0]) * view.width_px - 0.5
        v = view.y_px + float(output.landing[b, e, i, 1]) * view.height_px - 0.5
        assert (u, v) == pytest.approx(tuple(events[b, e, i, :2]), abs=0.05)
    np.testing.assert_allclose(target.point.numpy(), output.landing.numpy(), atol=1e-3)
    assert float(output.map.max()) == pytest.approx(0.5)


def _output(log_probability: torch.Tensor, seen: torch.Tensor, value_map: torch.Tensor, landing: torch.Tensor
            ) -> ValueOutput:
    return ValueOutput(log_probability, seen, value_map, landing)


def test_soft_targets_are_matched_best_by_themselves_and_cost_their_entropy() -> None:
    events = random_events(6, margin_px=8.0)
    target = value_target(torch.from_numpy(events), CONFIG)
    seen = torch.where(target.inside > 0, 20.0, -20.0)
    log_target = target.probability.clamp_min(1e-30).log()
    perfect = value_losses(_output(log_target, seen, target.map, target.point), target)
    p = target.probability.double()
    entropy = -(p * p.clamp_min(1e-30).log()).sum() / target.inside.sum()
    assert float(perfect["value_place"]) == pytest.approx(float(entropy), rel=1e-5)
    assert float(perfect["value_coordinate"]) == float(perfect["value_map"]) == 0.0
    assert float(perfect["value_seen"]) < 1e-6
    generator = torch.Generator().manual_seed(0)
    for scale in (0.1, 1.0):
        moved = log_target + scale * torch.randn(log_target.shape, generator=generator)
        moved = torch.where(target.probability > 1e-12, moved, log_target)
        for view in VIEWS:
            rows = slice(view.y_px // STRIDE, (view.y_px + view.height_px) // STRIDE)
            columns = slice(view.x_px // STRIDE, (view.x_px + view.width_px) // STRIDE)
            box = moved[:, :, rows, columns]
            moved[:, :, rows, columns] = box - torch.logsumexp(box.flatten(2), -1)[..., None, None]
        other = value_losses(_output(moved, seen, target.map, target.point), target)
        assert float(other["value_place"]) > float(entropy)


def test_value_losses_count_only_views_that_see_the_contact() -> None:
    events = random_events(7)
    target = value_target(torch.from_numpy(events), CONFIG)
    rng = np.random.default_rng(0)
    landing = torch.from_numpy(rng.random(tuple(target.point.shape), dtype=np.float32))
    seen = torch.from_numpy(rng.standard_normal(tuple(target.inside.shape), dtype=np.float32))
    losses = value_losses(_output(torch.zeros_like(target.map), seen, torch.zeros_like(target.map), landing), target)
    distance, count, crossed = 0.0, 0, 0.0
    for b, e, v in np.ndindex(events.shape[:3]):
        inside, logit = float(events[b, e, v, 3]), float(seen[b, e, v])
        chance = 1 / (1 + math.exp(-logit))
        crossed -= math.log(chance if inside else 1 - chance)
        if inside:
            count += 1
            distance += float((landing[b, e, v] - target.point[b, e, v]).abs().sum())
    assert float(losses["value_coordinate"]) == pytest.approx(distance / count, rel=1e-5)
    assert float(losses["value_seen"]) == pytest.approx(crossed / events[..., 3].size, rel=1e-5)
    assert float(losses["value_map"]) == pytest.approx(float((target.map**2).mean()), rel=1e-5)


def test_a_rival_pays_for_the_probability_it_gives_to_the_contact_of_the_other_sentence() -> None:
    events = random_events(9, margin_px=8.0)
    events[:, 0, :, 3] = 1.0
    target = value_target(torch.from_numpy(events), CONFIG)
    logits = torch.randn(target.map.shape, generator=torch.Generator().manual_seed(4))
    output = ValueHead(CONFIG)._assemble(logits + 3 * target.map, torch.zeros(3, CONFIG.value_events, len(VIEWS)))
    applies = torch.tensor([1.0, 0.0, 1.0])
    costs = []
    for b in range(3):
        masses = []
        for view in VIEWS:
            box = np.s_[view.y_px // STRIDE : (view.y_px + view.height_px) // STRIDE,
                        view.x_px // STRIDE : (view.x_px + view.width_px) // STRIDE]
            p, blob = output.log_probability[b, 0][box].exp().numpy(), target.map[b, 0][box].numpy()
            masses.append(sum(float(p[i]) for i in np.ndindex(p.shape) if blob[i] > 0.3))
        costs.append(-math.log(1 - sum(masses) / len(masses)))
    assert float(rival_loss(output, target, applies)) == pytest.approx((costs[0] + costs[2]) / 2, rel=1e-4)
    assert float(rival_loss(output, target, torch.zeros(3))) == 0.0


def test_a_batch_without_any_contact_in_view_gives_finite_losses() -> None:
    events = random_events(8)
    events[..., 3] = 0.0
    target = value_target(torch.from_numpy(events), CONFIG)
    assert not target.map.any()
    zeros = torch.zeros_like(target.map)
    losses = value_losses(_output(zeros, torch.zeros_like(target.inside), zeros, target.point), target)
    assert all(math.isfinite(float(loss)) for loss in losses.values())
    assert float(losses["value_place"]) == float(losses["value_coordinate"]) == 0.0


def test_noising_runs_from_the_data_to_pure_noise_a_sample() -> None:
    generator = torch.Generator().manual_seed(1)
    clean, noise = (torch.randn(3, 4, 5, generator=generator) for _ in range(2))
    mixed = noised(clean, noise, torch.tensor([0.0, 1.0, 0.25]))
    assert torch.equal(mixed[0], clean[0])
    assert torch.equal(mixed[1], noise[1])
    assert torch.allclose(mixed[2], 0.75 * clean[2] + 0.25 * noise[2])


@pytest.mark.parametrize("steps", [1, 2, 6])
@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_the_true_velocity_leads_from_noise_to_the_data_in_any_number_of_steps(steps: int, shift: float) -> None:
    generator = torch.Generator().manual_seed(2)
    clean, noise = (torch.randn(2, 7, generator=generator, dtype=torch.float64) for _ in range(2))
    velocity = noise - clean
    assert float(velocity_loss(velocity, clean, noise)) == 0.0
    x = noise
    for s, ds in levels(steps, shift):
        assert torch.allclose(x, noised(clean, noise, torch.full((2,), s, dtype=torch.float64)))
        assert torch.allclose(x - s * velocity, clean)
        x = x + ds * velocity
    assert torch.allclose(x, clean)


def test_velocity_loss_is_the_mean_square_of_the_error() -> None:
    rng = np.random.default_rng(3)
    velocity, clean, noise = (rng.standard_normal((2, 3, 4)) for _ in range(3))
    wanted = np.mean([(v - (n - c)) ** 2 for v, n, c in zip(velocity.flat, noise.flat, clean.flat, strict=True)])
    got = velocity_loss(*(torch.from_numpy(array) for array in (velocity, clean, noise)))
    assert float(got) == pytest.approx(wanted)


def test_the_total_is_the_weighted_sum_and_every_term_has_a_weight() -> None:
    weights = LossWeights(*(float(i + 1) for i in range(len(dataclasses.fields(LossWeights)))))
    names = [field.name for field in dataclasses.fields(LossWeights)]
    terms = {name: torch.tensor(10.0**i, dtype=torch.float64) for i, name in enumerate(names)}
    assert float(total(terms, weights)) == sum((i + 1) * 10.0**i for i in range(len(names)))
    with pytest.raises(AttributeError):
        total({"surprise": torch.tensor(1.0)}, weights)
