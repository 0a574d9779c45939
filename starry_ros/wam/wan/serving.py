"""What a folder of public weights does not say, and serving needs: `serving.json` beside its parts.

    transformer/  vae/  text_encoder/  tokenizer/     as published (Diffusers or LingBot-VA names)
    streams/                                          optional: trained value and action streams, in our names
    serving.json                                      which robot, which joint is in which slot, quantiles

LingBot-VA's action vector has 30 slots: 0 to 6 and 7 to 13 are the poses of the two hands, 14 to 27 joints, 28 and 29
the grippers. `slots` names the slot of every joint of the contract. Actions are absolute joint positions, normalised by

    x = 2 (a - q01) / (q99 - q01 + 1e-6) - 1

with quantiles by slot, as in LingBot-VA's `norm_stat`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from starry_ros.canvas.layout import CanvasLayout
from starry_ros.errors import CheckpointError
from starry_ros.files import write_text
from starry_ros.robot_spec import RobotSpec
from starry_ros.types import F64
from starry_ros.wam.config import ViewConfig
from starry_ros.wam.normalise import NormStats
from starry_ros.wam.wan.config import WanConfig
from starry_ros.wam.wan.files import read_json
from starry_ros.wam.wan.vae import GROUP

FILE = "serving.json"
FORMAT_VERSION = 1
HAND_SLOTS, JOINT_SLOTS, GRIPPER_SLOTS = range(14), range(14, 28), (28, 29)
VALUE_STRIDE_PX = 4
_EPSILON = 1e-6
_TUNABLE = ("chunk_latents", "actions_per_latent", "history_chunks", "video_steps", "value_steps", "action_steps",
            "shift")
_FIELDS = {"format_version", "contract_hash", "slots", "q01", "q99"}


@dataclass(frozen=True)
class Serving:
    """A checked `serving.json`: slots in contract order, quantiles by slot, and changes of the model's shape."""

    slots: tuple[int, ...]
    q01_A: F64
    q99_A: F64
    changes: Mapping[str, Any]

    def stats(self, chunk_steps: int) -> NormStats:
        """The same normalisation, joint by joint, in the session's form."""
        return quantile_stats(self.q01_A[list(self.slots)], self.q99_A[list(self.slots)], chunk_steps)


@dataclass(frozen=True)
class WanShape:
    """What session and planner ask of a Wan-size model: a `PlanShape`.

    A chunk is what is imagined at once, so `frame_tokens` are those of a chunk. Frames lie `frame_steps` apart.
    """

    name: str
    canvas_height_px: int
    canvas_width_px: int
    joints: int
    slots: tuple[int, ...]
    chunk_steps: int
    frame_steps: int
    frame_tokens: int
    latent_token_width: int
    views: tuple[ViewConfig, ...]
    video_steps: int
    longest_gap: int
    value_events: int = 1
    value_stride_px: int = VALUE_STRIDE_PX
    value_start: str = "noise"
    snap_grippers: bool = False
    prefix_steps: int = 0
    coupling: str = "intent_causal"
    needs_scene: bool = False

    @property
    def future_steps(self) -> int:
        """How far ahead the last imagined frame lies."""
        return self.chunk_steps

    @property
    def history_actions(self) -> int:
        """Most actions that one commit may bring."""
        return self.chunk_steps

    @property
    def value_token_width(self) -> int:
        """Numbers in a token of the value map: it is drawn by the video's own VAE."""
        return self.latent_token_width


def shape_for(config: WanConfig, slots: tuple[int, ...], layout: CanvasLayout) -> WanShape:
    """The session's view of a model."""
    views = tuple(ViewConfig(tile.camera, tile.rect.x_px, tile.rect.y_px, tile.rect.width_px, tile.rect.height_px)
                  for tile in layout.tiles)
    return WanShape(
        config.name, layout.height_px, layout.width_px, len(slots), slots, config.chunk_actions,
        config.actions_per_latent // GROUP, config.chunk_tokens, config.token_width, views, config.video_steps,
        GROUP * config.chunk_latents)


def quantile_stats(q01_J: F64, q99_J: F64, chunk_steps: int) -> NormStats:
    """x = 2 (a - q01) / (q99 - q01 + epsilon) - 1 as offset and scale, for absolute positions."""
    scale_J = (q99_J - q01_J + _EPSILON) / 2
    offset_J = q01_J + scale_J
    rows = (chunk_steps, 1)
    return NormStats(np.zeros_like(q01_J), np.tile(offset_J, rows), np.tile(scale_J, rows), offset_J, scale_J)


def usual_slots(spec: RobotSpec) -> dict[str, int]:
    """Slots of a robot's joints: a gripper's own, and up to seven for the joints of each of two arms."""
    slots: dict[str, int] = {}
    for arm, spare, gripper in zip(spec.arms, (JOINT_SLOTS[:7], JOINT_SLOTS[7:]), GRIPPER_SLOTS, strict=False):
        slots |= dict(zip((joint.name for joint in arm.joints[:-1]), spare, strict=False))
        slots[arm.joints[-1].name] = gripper
    return slots


def write_serving(folder: Path, spec: RobotSpec, q01_A: F64, q99_A: F64, slots: Mapping[str, int] | None = None,
                  **changes: Any) -> Path:
    """Write `serving.json` for a robot."""
    record = {"format_version": FORMAT_VERSION, "contract_hash": spec.content_hash,
              "slots": dict(slots or usual_slots(spec)), "q01": q01_A.tolist(), "q99": q99_A.tolist(), **changes}
    path = folder / FILE
    write_text(path, json.dumps(record, indent=1) + "\n")
    return path


def read_serving(folder: Path, spec: RobotSpec, width: int) -> Serving:
    """Read and check `serving.json` for a robot and a model with `width` action slots.

    Raises CheckpointError on a missing or unknown field, another robot, wrong slots and wrong quantiles.
    """
    path = folder / FILE
    if not path.is_file():
        raise CheckpointError(
            str(folder), f"has no {FILE}: nobody says which joint is in which slot, nor how actions are normalised",
            fix=f"`starry model adopt {folder} --robot {spec.name} --quantiles FILE` writes it")
    raw = read_json(path)
    missing, unknown = sorted(_FIELDS - set(raw)), sorted(set(raw) - _FIELDS - set(_TUNABLE))
    if missing or unknown or raw["format_version"] != FORMAT_VERSION:
        raise CheckpointError(str(path), f"missing {missing}, unknown {unknown}", got=raw.get("format_version"),
                              expected=f"version {FORMAT_VERSION} with {sorted(_FIELDS)}, perhaps {list(_TUNABLE)}",
                              fix="write it with `starry model adopt`")
    if raw["contract_hash"] != spec.content_hash:
        raise CheckpointError(str(path), f"is for another contract than {spec.name}", got=raw["contract_hash"],
                              expected=spec.content_hash,
                              fix="use the contract that the model was trained with, or train it for this robot")
    changes = {name: raw[name] for name in _TUNABLE if name in raw}
    return Serving(_slots(path, raw["slots"], spec, width), *_quantiles(path, raw, width), changes)


def _slots(path: Path, given: Any, spec: RobotSpec, width: int) -> tuple[int, ...]:
    """Slots in contract order."""
    if not isinstance(given, dict) or set(given) != set(spec.joint_names):
        raise CheckpointError(str(path), "slots do not name the joints of the contract", got=given,
                              expected=list(spec.joint_names), fix="give every joint a slot")
    slots = tuple(given[name] for name in spec.joint_names)
    if not all(isinstance(slot, int) and 0 <= slot < width for slot in slots) or len(set(slots)) < len(slots):
        raise CheckpointError(str(path), "slots are wrong", got=slots,
                              expected=f"different numbers of 0 to {width - 1}",
                              fix="give every joint a slot of its own")
    if width == 30 and set(slots) & set(HAND_SLOTS):
        raise CheckpointError(
            str(path), "puts a joint into a slot for the pose of a hand", got=sorted(set(slots) & set(HAND_SLOTS)),
            expected="14 to 27 for joints, 28 and 29 for grippers",
            fix="train the model on joint positions: this robot is not commanded by poses of its hands")
    return slots


def _quantiles(path: Path, raw: Mapping[str, Any], width: int) -> tuple[F64, F64]:
    """q01 and q99 [A], finite and apart in every used slot."""
    try:
        q01, q99 = (np.array(raw[name], dtype=np.float64) for name in ("q01", "q99"))
    except (ValueError, TypeError) as error:
        raise CheckpointError(str(path), f"quantiles are no numbers: {error}", fix="copy `norm_stat`") from error
    used = [slot for slot in raw["slots"].values() if isinstance(slot, int) and 0 <= slot < width]
    shapes = q01.shape == q99.shape == (width,)
    if not shapes or not np.isfinite([q01, q99]).all() or not (q99[used] > q01[used]).all():
        bad = [slot for slot in used if shapes and not q99[slot] > q01[slot]]
        raise CheckpointError(str(path), "quantiles are wrong", got=f"{q01.shape}, {q99.shape}, not apart in {bad}",
                              expected=f"two lists of {width} finite numbers, q01 < q99 in used slots",
                              fix="compute them from the data that the model was trained on")
    return q01, q99
