"""A Wan-size model behind the session's seam: canvases and joint positions in, plans out.

    canvas --- four frames ---> causal VAE, a camera at a time ---> one latent frame --+
    commanded joints --- slots ---> the actions during it -----------------------------+--> chunk decoder --> plan

An episode's first frame alone is a latent frame; after it every GROUP frames are. A plan starts from the newest latent
frame, so it may be up to GROUP - 1 frames old: `lag_steps`. Frames that are missing repeat the one before; a gap longer
than a chunk starts the video anew.

Shapes: H x W canvas, N tokens of a chunk of latents, W numbers a token, U actions of a chunk, J joints of the robot,
A action slots of the model, D known steps.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from starry_ros.canvas.layout import CanvasLayout
from starry_ros.errors import InputError, RuntimeUnavailable
from starry_ros.types import F32, U8
from starry_ros.wam.runtimes.base import WHOLE_PLAN, Effort, Noise, Prediction
from starry_ros.wam.wan.canvas import CameraVae, copied, fresh_states, to_latents, to_tokens
from starry_ros.wam.wan.chunk import ChunkNoise, ChunkPrediction, Held
from starry_ros.wam.wan.decoding import ChunkDecoder
from starry_ros.wam.wan.serving import WanShape
from starry_ros.wam.wan.vae import GROUP
from starry_ros.wam.wan.vae_blocks import VaeState


@dataclass
class _Film:
    """What one episode has seen: frames and actions that make no latent frame yet, and the chunk that is growing.

    `newest` holds the tokens of the last `chunk_latents` latent frames, whatever chunk they lie in.
    """

    frame: int | None = None
    waiting: list[U8] = field(default_factory=list)
    shown: U8 | None = None
    done: list[F32] = field(default_factory=list)
    pending: F32 | None = None
    states: tuple[VaeState, VaeState] = field(default_factory=fresh_states)
    latent: int = -1
    chunk: list[Tensor] = field(default_factory=list)
    actions: list[F32] = field(default_factory=list)
    valid: list[float] = field(default_factory=list)
    newest: list[Tensor] = field(default_factory=list)

    def copy(self) -> _Film:
        """A snapshot: lists are copied, what is in them is never written to."""
        lists = {name: list(getattr(self, name)) for name in ("waiting", "done", "chunk", "actions", "valid", "newest")}
        return _Film(self.frame, shown=self.shown, pending=self.pending, states=copied(self.states),
                     latent=self.latent, **lists)


class WanRuntime:
    """A `Runtime` over a chunk decoder and a VAE."""

    name, guides = "torch", False

    def __init__(self, decoder: ChunkDecoder, vae: CameraVae, shape: WanShape, layout: CanvasLayout) -> None:
        self.config = shape
        self._decoder, self._vae, self._model, self._layout = decoder, vae, decoder.config, layout
        self._slots = torch.tensor(shape.slots)
        self._unused = torch.ones(self._model.joints)
        self._unused[self._slots] = 0.0
        self._film = _Film()
        self._branches: list[_Film] = []
        self._supposed: F32 | None = None
        self._plans = False  # whether the last chunk may serve again: it is of this sentence and history

    def set_text(self, tokens_TD: F32, mask_T: F32) -> None:
        """Take a sentence's embedding, zeros after its last token: Wan attends to the zeros, too."""
        self._decoder.set_text(torch.from_numpy(np.array(tokens_TD)))
        self._plans = False
        if self._decoder.shared and self._film.chunk:
            self._show_chunk()

    def commit(self, actions_UJ: F32, valid_U: F32) -> None:
        """Actions executed since the newest frame; they enter the history with the latent frame they lead to."""
        self._film.pending = np.asarray(actions_UJ, np.float32)[: int(np.sum(valid_U))]

    def observe(self, canvas_HWC: U8, step: int) -> None:
        """Take the frame of an instant, a multiple of `frame_steps`."""
        film, frame = self._film, step // self.config.frame_steps
        if film.frame is None or frame - film.frame > self.config.longest_gap:
            self._begin(canvas_HWC, frame)
            return
        missing, actions, film.pending = frame - film.frame - 1, film.pending, None
        needed = (missing + 1) * self.config.frame_steps
        if actions is None or len(actions) < needed or film.shown is None:
            raise InputError("history", "lacks the actions between two frames", expected=f"{needed} actions",
                             fix="commit them before observing")
        film.waiting += [film.shown] * missing + [canvas_HWC]
        film.done += list(actions[:needed])
        film.frame, film.shown = frame, canvas_HWC
        while len(film.waiting) >= GROUP:
            latent = self._vae.encode(film.waiting[:GROUP], film.states)
            count = GROUP * self.config.frame_steps
            self._append(latent, film.done[:count], 1.0)
            film.waiting, film.done = film.waiting[GROUP:], film.done[count:]

    def look(self, scene: dict[str, F32]) -> None:
        """Models of this size see colour alone."""

    def branch(self) -> None:
        """What is observed from now on is speculative. Branches nest."""
        self._decoder.branch()
        self._branches.append(self._film.copy())

    def drop(self) -> None:
        """Return to the state at the last `branch`."""
        self._decoder.drop()
        self._film, self._plans = self._branches.pop(), False
        if self._film.chunk:
            self._show_chunk()

    def accept(self) -> None:
        """Let what came since the last `branch` stand."""
        self._decoder.accept()
        self._branches.pop()

    def reset(self) -> None:
        """Forget frames and actions; the sentence stays."""
        self._decoder.reset()
        self._film, self._branches, self._plans = _Film(), [], False

    @property
    def lag_steps(self) -> int:
        """Steps from the newest latent frame, which plans start from, to the newest observed frame."""
        return len(self._film.waiting) * self.config.frame_steps

    @contextlib.contextmanager
    def supposing(self, actions_UJ: F32, valid_U: F32) -> Iterator[None]:
        """Within this context the chunk begins with these actions."""
        self._supposed = np.asarray(actions_UJ, np.float32)[: int(np.sum(valid_U))]
        try:
            yield
        finally:
            self._supposed = None

    def predict(self, noise: Noise, state_J: F32, effort: Effort = WHOLE_PLAN) -> Prediction:
        """Imagine the next chunk, its value map and its actions. The measured state is in the video already."""
        if effort.target_KJ is not None:
            raise RuntimeUnavailable(f"model {self._model.name}", "gives no gradient for guided inpainting",
                                     fix="use another way to splice")
        if not self._film.chunk:
            raise InputError("plan", "nothing has been observed yet", fix="call observe first")
        start_s = time.monotonic()
        value = torch.from_numpy(np.array(noise.value)) if self._model.value else None
        drawn = ChunkNoise(torch.from_numpy(np.array(noise.video)), value, self._in_slots(noise.action[0])[None])
        known = self._supposed if effort.known_DJ is None else effort.known_DJ
        effort = effort if self._plans else WHOLE_PLAN
        made = self._decoder.predict(drawn, self._held(known), effort)
        self._plans = True
        actions_KJ: F32 = made.action[0][:, self._slots.to(made.action.device)].float().cpu().numpy()
        chunk_s = time.monotonic() - start_s
        map_EYX, landing_EV2, seen_EV = self._value(made)
        seconds = {**self._stages_s(chunk_s, effort), "value_map": time.monotonic() - start_s - chunk_s}
        return Prediction(actions_KJ, map_EYX, landing_EV2, seen_EV, made.video.float().cpu().numpy(), seconds)

    def latents(self) -> F32:
        """Tokens [N, W] of the newest latent frames, as many as a chunk has."""
        tokens: F32 = torch.cat(self._film.newest, dim=1)[0].float().cpu().numpy()
        return tokens

    def decode(self, latents: F32) -> U8:
        """The canvas at the end of imagined tokens [1, N, W], which follow the newest latent frames."""
        imagined = torch.from_numpy(np.array(latents))
        return self._picture(torch.cat([*(part.to("cpu", torch.float32) for part in self._film.newest), imagined], 1))

    def _begin(self, canvas_HWC: U8, frame: int) -> None:
        """Start the video with this frame, at the beginning or after a gap; time goes on."""
        self._decoder.reset()
        last, self._film = self._film, _Film(frame, shown=canvas_HWC)
        self._film.latent = last.latent
        nothing = [np.zeros(self.config.joints, np.float32)] * self._model.actions_per_latent
        self._append(self._vae.encode([canvas_HWC], self._film.states), nothing, 0.0)

    def _append(self, latent_1Z1hw: Tensor, actions: list[F32], valid: float) -> None:
        """Add a latent frame and the actions that led to it; a full chunk goes into the history before."""
        film, c = self._film, self._model
        tokens = to_tokens(latent_1Z1hw, c.patch)
        if len(film.chunk) == c.chunk_latents:
            self._decoder.commit()
            film.chunk, film.actions, film.valid = [], [], []
        film.latent += 1
        film.chunk.append(tokens)
        film.actions += actions
        film.valid += [valid] * len(actions)
        film.newest = [*(film.newest or [tokens] * c.chunk_latents), tokens][-c.chunk_latents :]
        self._show_chunk()

    def _show_chunk(self) -> None:
        """Give the growing chunk to the decoder."""
        film = self._film
        self._decoder.observe(torch.cat(film.chunk, 1), self._in_slots(np.stack(film.actions))[None],
                              film.latent - len(film.chunk) + 1, torch.tensor(film.valid))

    def _stages_s(self, chunk_s: float, effort: Effort) -> dict[str, float]:
        """The measured time of a chunk, shared among its stages by the weights that each reads: it is one piece."""
        c, model = self._model, self._decoder.model
        steps = {"video": (effort.video_steps or c.video_steps) * effort.video, "value": c.value_steps * effort.value,
                 "action": c.action_steps}
        read = {name: count * sum(p.numel() for p in model.stream_of(name).parameters())
                for name, count in steps.items() if name != "value" or c.value}
        return {name: chunk_s * size / sum(read.values()) for name, size in read.items()}

    def _in_slots(self, actions_KJ: F32) -> Tensor:
        """Joints in their slots [K, A]; the others are 0, as in training."""
        slots = torch.zeros(len(actions_KJ), self._model.joints)
        slots[:, self._slots] = torch.from_numpy(np.array(actions_KJ, np.float32))
        return slots

    def _held(self, known_DJ: F32 | None) -> Held:
        """Unused slots are held at 0, and known steps at their values."""
        values, where = torch.zeros(2, 1, self._model.chunk_actions, self._model.joints)
        where[:] = self._unused
        if known_DJ is not None and len(known_DJ):
            values[0, : len(known_DJ)] = self._in_slots(known_DJ)
            where[0, : len(known_DJ)] = 1.0
        return Held(values, where)

    def _picture(self, tokens_1NW: Tensor) -> U8:
        weight = next(self._vae.vae.parameters())
        return self._vae.decode(to_latents(tokens_1NW, self._model).to(weight.device, weight.dtype))

    def _value(self, made: ChunkPrediction) -> tuple[F32, F32, F32]:
        """Map [1, Y, X] in [0, 1], and where each view's maximum lies; black where the model has no value stream."""
        views, stride = self.config.views, self.config.value_stride_px
        landing, seen = np.full((1, len(views), 2), 0.5, np.float32), np.zeros((1, len(views)), np.float32)
        size = self._layout.height_px // stride, self._layout.width_px // stride
        if made.value is None:
            return np.zeros((1, *size), np.float32), landing, seen
        image = self._picture(made.value.float().cpu()).astype(np.float32).mean(-1) / 255
        map_YX = image.reshape(size[0], stride, size[1], stride).mean((1, 3))
        for i, view in enumerate(views):
            part = map_YX[view.y_px // stride : (view.y_px + view.height_px) // stride,
                          view.x_px // stride : (view.x_px + view.width_px) // stride]
            row, column = np.unravel_index(int(part.argmax()), part.shape)
            landing[0, i] = (column + 0.5) / part.shape[1], (row + 0.5) / part.shape[0]
            seen[0, i] = part[row, column]
        return map_YX[None], landing, seen
