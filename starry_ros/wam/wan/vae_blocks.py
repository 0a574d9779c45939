"""Layers of Wan2.2's video autoencoder. Each causal layer remembers the last frames it saw in a `VaeState`.

Modules carry the names of the public safetensors (`AutoencoderKLWan`).

Shapes: B batch, C channels, T frames, H x W cells.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

VaeState = dict[nn.Module, Tensor]
"""Last frames by layer. Tensors in it are never written to: a shallow copy is a snapshot."""


class CausalConv(nn.Conv3d):
    """Convolution that sees the present and the past only."""

    def __init__(self, inner: int, outer: int, kernel: tuple[int, int, int], stride: tuple[int, int, int] = (1, 1, 1),
                 causal: bool = True) -> None:
        super().__init__(inner, outer, kernel, stride, (0, kernel[1] // 2, kernel[2] // 2))
        self.past = kernel[0] - 1 if causal else 1

    def forward(self, x: Tensor, state: VaeState) -> Tensor:  # type: ignore[override]
        if self.past:
            before = state.get(self)
            if before is None:
                before = x.new_zeros((*x.shape[:2], self.past, *x.shape[3:]))
            x = torch.cat([before, x], dim=2)
            state[self] = x[:, :, -self.past :]
        return super().forward(x)


class RmsNorm(nn.Module):
    """Unit root mean square over channels, times a gain."""

    def __init__(self, width: int, axes: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width, *([1] * axes)))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = F.normalize(x, dim=1) * self.gamma.shape[0] ** 0.5 * self.gamma
        return out


class Residual(nn.Module):
    """x (or a 1x1x1 of it) + two causal convolutions."""

    def __init__(self, inner: int, outer: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = RmsNorm(inner, 3), CausalConv(inner, outer, (3, 3, 3))
        self.norm2, self.conv2 = RmsNorm(outer, 3), CausalConv(outer, outer, (3, 3, 3))
        self.conv_shortcut = CausalConv(inner, outer, (1, 1, 1)) if inner != outer else None

    def forward(self, x: Tensor, state: VaeState) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)), state)
        h = self.conv2(F.silu(self.norm2(h)), state)
        out: Tensor = h + (x if self.conv_shortcut is None else self.conv_shortcut(x, state))
        return out


class FrameAttention(nn.Module):
    """One-headed attention within each frame."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = RmsNorm(width, 2)
        self.to_qkv, self.proj = nn.Conv2d(width, 3 * width, 1), nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        frames = _frames(x)
        q, k, v = self.to_qkv(self.norm(frames)).flatten(2).transpose(1, 2).chunk(3, dim=-1)
        mixed = F.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None])[:, 0]
        out = self.proj(mixed.transpose(1, 2).reshape(frames.shape))
        return x + _video(out, x.shape[0])


class Middle(nn.Module):
    """Residual, attention, residual."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.attentions = nn.ModuleList([FrameAttention(width)])
        self.resnets = nn.ModuleList([Residual(width, width), Residual(width, width)])

    def forward(self, x: Tensor, state: VaeState) -> Tensor:
        out: Tensor = self.resnets[1](self.attentions[0](self.resnets[0](x, state)), state)
        return out


class Halve(nn.Module):
    """Half the height and width, and half the time: the first frame of all stays alone."""

    def __init__(self, width: int, time: bool) -> None:
        super().__init__()
        self.resample = nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(width, width, 3, 2))
        self.time_conv = CausalConv(width, width, (3, 1, 1), (2, 1, 1), causal=False) if time else None

    def forward(self, x: Tensor, state: VaeState) -> Tensor:
        x = _video(self.resample(_frames(x)), x.shape[0])
        if self.time_conv is None:
            return x
        if self.time_conv not in state:
            state[self.time_conv] = x[:, :, -1:]
            return x
        out: Tensor = self.time_conv(x, state)
        return out


class Double(nn.Module):
    """Inverse of `Halve`: every frame but the first becomes two."""

    def __init__(self, width: int, time: bool) -> None:
        super().__init__()
        self.resample = nn.Sequential(nn.Upsample(scale_factor=(2.0, 2.0), mode="nearest-exact"),
                                      nn.Conv2d(width, width, 3, padding=1))
        self.time_conv = CausalConv(width, 2 * width, (3, 1, 1)) if time else None

    def forward(self, x: Tensor, state: VaeState) -> Tensor:
        if self.time_conv is not None:
            if self.time_conv not in state:  # the first frame does not double, and the next ones never see it
                state[self.time_conv] = x.new_zeros((*x.shape[:2], 2, *x.shape[3:]))
            else:
                x = self.time_conv(x, state).unflatten(1, (2, -1)).permute(0, 2, 3, 1, 4, 5).flatten(2, 3)
        return _video(self.resample(_frames(x)), x.shape[0])


class Down(nn.Module):
    """Residual blocks and a halving, beside a shortcut that averages."""

    def __init__(self, inner: int, outer: int, residuals: int, halve: bool, time: bool) -> None:
        super().__init__()
        self.outer, self.factors = outer, (2 if time else 1, 2 if halve else 1)
        self.resnets = nn.ModuleList(Residual(inner if i == 0 else outer, outer) for i in range(residuals))
        self.downsampler = Halve(outer, time) if halve else None

    def forward(self, x: Tensor, state: VaeState) -> Tensor:
        short = self._average(x)
        for block in self.resnets:
            x = block(x, state)
        return short + (x if self.downsampler is None else self.downsampler(x, state))

    def _average(self, x: Tensor) -> Tensor:
        """Cells of space and time into channels, channels averaged in groups; a lone frame gets an empty one before."""
        time, space = self.factors
        x = F.pad(x, (0, 0, 0, 0, -x.shape[2] % time, 0))
        cells = x.unflatten(4, (-1, space)).unflatten(3, (-1, space)).unflatten(2, (-1, time))
        groups: Tensor = cells.permute(0, 1, 3, 5, 7, 2, 4, 6).flatten(1, 4).unflatten(1, (self.outer, -1))
        return groups.mean(2)


class Up(nn.Module):
    """Residual blocks and a doubling, beside a shortcut that repeats."""

    def __init__(self, inner: int, outer: int, residuals: int, double: bool, time: bool) -> None:
        super().__init__()
        self.outer, self.factors = outer, (2 if time else 1, 2)
        self.resnets = nn.ModuleList(Residual(inner if i == 0 else outer, outer) for i in range(residuals + 1))
        self.upsampler = Double(outer, time) if double else None

    def forward(self, x: Tensor, state: VaeState, first: bool) -> Tensor:
        short = None if self.upsampler is None else self._repeat(x, first)
        for block in self.resnets:
            x = block(x, state)
        if self.upsampler is None or short is None:
            return x
        out: Tensor = self.upsampler(x, state) + short
        return out

    def _repeat(self, x: Tensor, first: bool) -> Tensor:
        """Channels into cells of space and time; of the very first frame only its last copy."""
        time, space = self.factors
        x = x.repeat_interleave(self.outer * time * space * space // x.shape[1], dim=1)
        cells = x.unflatten(1, (self.outer, time, space, space)).permute(0, 1, 5, 2, 6, 3, 7, 4)
        video: Tensor = cells.flatten(6, 7).flatten(4, 5).flatten(2, 3)
        return video[:, :, time - 1 :] if first else video


def _frames(x: Tensor) -> Tensor:
    """[B, C, T, H, W] to [B T, C, H, W]."""
    return x.transpose(1, 2).flatten(0, 1)


def _video(x: Tensor, batch: int) -> Tensor:
    """Inverse of `_frames`."""
    video: Tensor = x.unflatten(0, (batch, -1)).transpose(1, 2)
    return video
