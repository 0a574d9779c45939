"""What decides the weights of each training besides its data: budgets, hyperparameters, learning rates.

Imports nothing heavy, so that the command line can say the defaults without a framework.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

OCCLUDED = ("drawn", "black")
"""What the value map shows of a contact that something hides from a camera: where it is, or nothing (as in AIM)."""


def warm_cosine(step: int, steps: int, warm_up: int) -> float:
    """Share of the peak learning rate: rises linearly over `warm_up` steps, held under a cosine that ends at 0."""
    return min((step + 1) / warm_up, 0.5 + 0.5 * math.cos(math.pi * step / steps))


@dataclass(frozen=True)
class LossWeights:
    """Weights of the terms."""

    video: float = 0.3
    value_place: float = 0.3
    value_coordinate: float = 3.0
    value_seen: float = 0.1
    value_rival: float = 0.15
    value_map: float = 3.0
    action: float = 1.0
    depth: float = 0.3
    pose: float = 0.1
    weight: float = 0.3


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides the weights, besides the data."""

    preset: str = "tiny"
    steps: int = 12000
    batch: int = 32
    learning_rate: float = 1e-3
    final_learning_rate: float = 2e-5
    warm_up: int = 200
    weight_decay: float = 0.02
    clip_norm: float = 1.0
    average_decay: float = 0.998
    seed: int = 0
    reworded: float = 0.0
    noisy_history: float = 0.0
    text_dropout: float = 0.0
    weights: LossWeights = field(default_factory=LossWeights)

    def rate(self, step: int) -> float:
        """Learning rate: linear warm-up, then cosine."""
        if step < self.warm_up:
            return self.learning_rate * (step + 1) / self.warm_up
        done = (step - self.warm_up) / max(1, self.steps - self.warm_up)
        span = self.learning_rate - self.final_learning_rate
        return self.final_learning_rate + span * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


@dataclass(frozen=True)
class AutoencoderTraining:
    """Budget and hyperparameters; the learning rate rises for 5 % of `steps`, then falls to zero as a cosine."""

    steps: int = 900
    batch: int = 32
    seed: int = 0
    learning_rate: float = 2e-3
    max_frames: int = 12000
    save_every: int = 100

    def rate(self, step: int) -> float:
        """Learning rate of a step."""
        return self.learning_rate * warm_cosine(step, self.steps, max(1, self.steps // 20))


@dataclass(frozen=True)
class StatesTraining:
    """Budget and hyperparameters; the learning rate warms up over `warm_up` steps and falls to zero as a cosine."""

    steps: int = 5000
    batch: int = 64
    seed: int = 0
    learning_rate: float = 2e-3
    warm_up: int = 50
    average_decay: float = 0.99
    action_weight: float = 1.0
    longest_motion: int = 8

    def rate(self, step: int) -> float:
        """Learning rate of a step."""
        return self.learning_rate * warm_cosine(step, self.steps, self.warm_up)


@dataclass(frozen=True)
class RlConfig:
    """Everything that decides the weights, besides the model that it starts from.

    An iteration plays `layouts`, each in a `group` of episodes. Every `held` plans in a row bring the hand at work
    elsewhere, by a Gaussian of deviation `spread` (m) along x, y and z; what is lost until `look_on_s` after the first
    of them counts by `time_weight` a second, the value map's reward and success by `dense_weight` and `success_weight`.
    """

    tasks: tuple[str, ...] = ("place_block_pad",)
    setting: str = "easy"
    iterations: int = 20
    layouts: int = 24
    group: int = 6
    held: int = 3
    look_on_s: float = 1.2
    epochs: int = 1
    batch: int = 256
    learning_rate: float = 5e-6
    clip: float = 0.2
    kl_weight: float = 0.1
    spread: float = 0.008
    time_weight: float = 1.0
    dense_weight: float = 0.1
    success_weight: float = 0.1
    clip_norm: float = 1.0
    seed: int = 0
