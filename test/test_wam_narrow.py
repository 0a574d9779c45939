"""A narrow stream started from a wide one."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from starry_ros.errors import ConfigError
from starry_ros.wam.layers import Stream
from starry_ros.wam.narrow import start_from_wide


def stream(width: int, feed_forward: int, *, text: bool = False, layers: int = 2, heads: int = 2) -> Stream:
    made = Stream(layers, width, feed_forward, heads, 12, text)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(parameter.numel())))
    return made


def by_hand(wide: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """Linear interpolation of a matrix along both axes by numpy, one line at a time."""
    at = [np.linspace(0, n - 1, m) for n, m in zip(wide.shape, (rows, columns), strict=True)]
    tall = np.stack([np.interp(at[0], np.arange(wide.shape[0]), line) for line in wide.T], axis=1)
    return np.stack([np.interp(at[1], np.arange(wide.shape[1]), line) for line in tall])


def test_weights_are_interpolated_and_matrices_scaled_by_the_root_of_their_lost_inputs() -> None:
    wide, narrow = stream(24, 40, text=True), stream(10, 14)
    start_from_wide(narrow, wide)
    a, b = dict(wide.named_parameters()), dict(narrow.named_parameters())
    for name, inputs in (("blocks.1.up.weight", (24, 10)), ("blocks.0.down.weight", (40, 14)),
                         ("blocks.0.qkv.weight", (24, 10)), ("blocks.1.out.weight", (24, 24))):
        wanted = by_hand(a[name].detach().numpy(), *b[name].shape) * math.sqrt(inputs[0] / inputs[1])
        np.testing.assert_allclose(b[name].detach().numpy(), wanted, atol=1e-5)
    np.testing.assert_allclose(b["blocks.0.up.bias"].detach().numpy(),
                               np.interp(np.linspace(0, 39, 14), np.arange(40), a["blocks.0.up.bias"].detach()),
                               atol=1e-5)
    modulation = by_hand(a["blocks.0.modulation"].detach().numpy(), 6, 10)
    np.testing.assert_allclose(b["blocks.0.modulation"].detach().numpy(), modulation, atol=1e-5)
    for vector in range(6):
        part = a["time.out.weight"].detach().numpy()[24 * vector : 24 * (vector + 1)]
        got = b["time.out.weight"].detach().numpy()[10 * vector : 10 * (vector + 1)]
        np.testing.assert_allclose(got, by_hand(part, 10, 10) * math.sqrt(2.4), atol=1e-5)


def test_a_stream_of_the_same_width_is_copied_bit_by_bit() -> None:
    wide, same = stream(24, 40), stream(24, 40)
    with torch.no_grad():
        for parameter in same.parameters():
            parameter.zero_()
    start_from_wide(same, wide)
    assert all(torch.equal(*pair) for pair in zip(wide.parameters(), same.parameters(), strict=True))


def test_streams_that_do_not_share_attention_or_depth_are_refused() -> None:
    with pytest.raises(ConfigError, match="another attention width; got 48; expected 24"):
        start_from_wide(stream(10, 14, heads=4), stream(24, 40))
    with pytest.raises(ConfigError, match=r"has no blocks\.2"):
        start_from_wide(stream(10, 14, layers=3), stream(24, 40))
