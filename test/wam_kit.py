"""Tools of the tests of the model: a narrow model of the simulated robot, a text encoder of letters, observations."""

from __future__ import annotations

import dataclasses
import zlib
from pathlib import Path

import numpy as np
import torch

from starry_ros.canvas.layout import t_pose_layout
from starry_ros.robot_spec import load_robot_spec
from starry_ros.timing import nanoseconds
from starry_ros.types import Canvas, RobotState
from starry_ros.wam.autoencoder import Autoencoder, AutoencoderConfig
from starry_ros.wam.checkpoint import Checkpoint, contract_fields
from starry_ros.wam.config import StreamConfig, tiny
from starry_ros.wam.model import WorldActionModel
from starry_ros.wam.normalise import fit
from starry_ros.wam.text import TextEmbedding, check_sentence, text_hash

SPEC = load_robot_spec(Path(__file__).parents[1] / "config" / "robots" / "bimanual_sim.yaml")
LAYOUT = t_pose_layout(SPEC)
STEP_NS = nanoseconds(SPEC.action.step_s)
JOINTS = len(SPEC.joint_names)
MIDDLE_J = (SPEC.limit("lower") + SPEC.limit("upper")) / 2
NARROW = StreamConfig(48, 64)
CONFIG = dataclasses.replace(
    tiny(LAYOUT, JOINTS), name="narrow", layers=2, heads=2, head_dim=24, video=NARROW, value=NARROW, action=NARROW,
    detail_channels=8, history_slots=2, latent_channels=4, action_steps=3, text_width=20, text_tokens=6,
)


def make_checkpoint(seed: int = 0) -> Checkpoint:
    """Random weights with no zero left, so that every path carries a signal."""
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    model = WorldActionModel(CONFIG)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    rng = np.random.default_rng(seed)
    plans_NKJ = MIDDLE_J + rng.uniform(-0.3, 0.3, (20, CONFIG.chunk_steps, JOINTS))
    stats = fit(plans_NKJ, MIDDLE_J + rng.uniform(-0.3, 0.3, (20, JOINTS)), SPEC.gripper_indices)
    autoencoder = Autoencoder(AutoencoderConfig(LAYOUT.height_px, LAYOUT.width_px, CONFIG.latent_channels, (8, 8, 8)))
    return Checkpoint(
        CONFIG, stats, dict(model.state_dict()), autoencoder.eval(), SPEC.content_hash, LAYOUT.layout_hash,
        contract=contract_fields(SPEC),
    )


class LetterEncoder:
    """Another embedding for every sentence, from its check sum."""

    name, dim, max_tokens = "letters", CONFIG.text_width, CONFIG.text_tokens

    def encode(self, text: str) -> TextEmbedding:
        """Two to six tokens of unit variance."""
        clean = check_sentence(text)
        rng = np.random.default_rng(zlib.crc32(clean.encode()))
        mask_T = np.arange(self.max_tokens) < rng.integers(2, self.max_tokens + 1)
        tokens_TD = rng.standard_normal((self.max_tokens, self.dim), dtype=np.float32) * mask_T[:, None]
        return TextEmbedding(tokens_TD, mask_T, clean, text_hash(self.name, clean))


def make_canvas(stamp_ns: int, seed: int = 0, layout_hash: str = LAYOUT.layout_hash) -> Canvas:
    """Colours that say where a pixel is, and noise that says which canvas."""
    rng = np.random.default_rng([seed, stamp_ns])
    v, u = np.mgrid[: LAYOUT.height_px, : LAYOUT.width_px]
    image = np.stack([u, v, u ^ v], axis=-1) + rng.integers(0, 60, (LAYOUT.height_px, LAYOUT.width_px, 1))
    return Canvas(stamp_ns, layout_hash, image.astype(np.uint8), ())


def make_state(stamp_ns: int, offset: float = 0.0) -> RobotState:
    """At the middle of every joint's range, plus an offset."""
    return RobotState(stamp_ns, MIDDLE_J + offset, np.zeros(JOINTS))
