"""What training hides now and then: details of past frames, and the sentence.

Noisy history (LingBot-VA): past frames are seen at noise levels of their own, x_s = (1 - s) x + s noise, s uniform in
the lower half of the sampler's grid, [0, 1/2]. So the model does not lean on every detail of pictures that may be old,
late or its own. Their pixels get noise of the same level, or their details would tell what the latents hide. What is
observed now, what was executed and what is to be learned stay as they are.

Text dropout: the sentence is replaced by one that says nothing, so that the imagined frame is also learned without
words.

Shapes: B batch, R history slots, H x W canvas pixels.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from starry_ros.types import F32, U8

if TYPE_CHECKING:
    from starry_ros.training.dataset import Batch

MOST_NOISE = 0.5
"""Noise level that past frames have at most."""


@dataclass(frozen=True)
class Augment:
    """Shares of the samples: with noise on their past frames, and without a sentence."""

    noisy_history: float = 0.0
    text_dropout: float = 0.0

    def of(self, batch: Batch, silent: int, rng: np.random.Generator) -> Batch:
        """The batch with some of it hidden; `silent` is the number of the sentence that says nothing."""
        if self.text_dropout:
            dropped_B = rng.random(len(batch.text_B)) < self.text_dropout
            batch = replace(batch, text_B=np.where(dropped_B, silent, batch.text_B))
        slots = batch.history_valid_BR.shape
        if self.noisy_history and slots[1]:
            noised_B1 = rng.random((slots[0], 1)) < self.noisy_history
            s_BR = np.where(noised_B1, rng.uniform(0.0, MOST_NOISE, slots), 0.0).astype(np.float32)
            batch = replace(batch, history_latents_BRCYX=_noisy(batch.history_latents_BRCYX, s_BR, rng),
                            history_canvas_BRHWC=_noisy_pixels(batch.history_canvas_BRHWC, s_BR, rng))
        return batch


NOTHING = Augment()
"""Hides nothing."""


def _noisy(x_BRabc: F32, s_BR: F32, rng: np.random.Generator) -> F32:
    """x_s = (1 - s) x + s noise, one level a frame."""
    s = s_BR[:, :, None, None, None]
    return (1 - s) * x_BRabc + s * rng.standard_normal(x_BRabc.shape, dtype=np.float32)


def _noisy_pixels(canvas_BRHWC: U8, s_BR: F32, rng: np.random.Generator) -> U8:
    """The same of canvases, whose 0 .. 255 stand for -1 .. 1. Where no level is above 0 nothing changes."""
    x = _noisy(canvas_BRHWC.astype(np.float32) / 127.5 - 1, s_BR, rng)
    noisy: U8 = ((x.clip(-1, 1) + 1) * 127.5).round().astype(np.uint8)
    return noisy
