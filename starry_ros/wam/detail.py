"""Fine detail of an observed canvas: what a stride-16 latent is too coarse to place.

Shapes: B batch, H x W canvas pixels, C detail channels, N tokens.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class DetailStem(nn.Module):
    """Canvas to pixel embeddings at stride 4 (for the value head) and one vector a token (for the streams)."""

    def __init__(self, channels: int, token_px: int, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 16, 5, stride=2, padding=2)
        self.second = nn.Conv2d(16, channels, 3, stride=2, padding=1)
        self.mix = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2))
        self.down8 = nn.Conv2d(channels, 2 * channels, 3, stride=2, padding=1)
        self.down16 = nn.Conv2d(2 * channels, 3 * channels, 3, stride=2, padding=1)
        self.patch = token_px // 16
        self.token = nn.Linear(3 * channels * self.patch**2, width)

    def forward(self, canvas_B3HW: Tensor) -> tuple[Tensor, Tensor]:
        """Canvas in [-1, 1] to pixel embeddings [B, C, H/4, W/4] and token features [B, N, width]."""
        x = F.relu(self.second(F.relu(self.first(canvas_B3HW))))
        for conv in self.mix:
            x = x + F.relu(conv(x))
        coarse = F.relu(self.down16(F.relu(self.down8(x))))
        return x, self.token(patchify(coarse, self.patch))


def patchify(x_BCHW: Tensor, patch: int) -> Tensor:
    """Image to tokens [B, N, C * patch * patch], row by row."""
    batch, channels, height, width = x_BCHW.shape
    x = x_BCHW.reshape(batch, channels, height // patch, patch, width // patch, patch)
    return x.permute(0, 2, 4, 1, 3, 5).reshape(batch, (height // patch) * (width // patch), channels * patch * patch)


def unpatchify(x_BND: Tensor, patch: int, rows: int, columns: int) -> Tensor:
    """Inverse of `patchify`: tokens to [B, C, rows * patch, columns * patch]."""
    batch, _, width = x_BND.shape
    channels = width // patch**2
    x = x_BND.reshape(batch, rows, columns, channels, patch, patch).permute(0, 3, 1, 4, 2, 5)
    return x.reshape(batch, channels, rows * patch, columns * patch)
