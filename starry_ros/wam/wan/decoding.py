"""The decoding loop of a Wan-size model over a fixed history.

    observed latents -> video port, no noise -----+---------------+------------------+
    executed actions -> action port, no noise ----+               |                  |
    sentence -> text attention of the video stream|               |                  |
                                                  v               v                  v
                                       imagine: next latents -> value: map -> act: action chunk

Who sees whom is `masks.VISIBLE`. Regions of the field lie so that what video and value look at is one piece:

    | done | executed actions, R slots | past latents, R slots | current | future | value | action |
    |<------------------------ video ------------------------------------------->|
                                       |<----------------- value -------------------->|
    action: done and executed, current, value, action (all short; copied together)

`current` is the newest chunk of latents and `done` the actions executed during it. While a chunk is not full yet, the
rest of both regions is hidden; so a plan may start from any latent frame.

A checkpoint whose actions share the video stream's blocks (LingBot-VA) was trained on another table: every token sees
the sentence and all that lies before it, and actions see the future latents. Such a model is run that way.

Shapes: N tokens of a chunk of latents, U actions of a chunk, R history slots, W numbers a video token, J joints.
"""

from __future__ import annotations

import torch
from torch import Tensor

from starry_ros.wam.layers import MASKED
from starry_ros.wam.runtimes.base import WHOLE_PLAN, Effort
from starry_ros.wam.sampler import levels
from starry_ros.wam.wan.chunk import (
    ACTION,
    CURRENT,
    DONE,
    EXECUTED,
    FUTURE,
    PAST,
    VALUE,
    ChunkNoise,
    ChunkPrediction,
    Held,
    memory,
    regions,
)
from starry_ros.wam.wan.model import WanModel
from starry_ros.wam.wan.streams import LayerKV, rope_table


class ChunkDecoder:
    """One episode's memory and the decoding loop, on the device and in the type of the model's weights.

    `cache_dtype` may be narrower than the weights'. Buffers are made once and never move. So on a GPU `capture` can
    record the whole denoising loop as one CUDA graph, as soon as the history is full and nothing needs a mask.
    """

    def __init__(self, model: WanModel, cache_dtype: torch.dtype | None = None, capture: bool = False) -> None:
        self.model, self.config = model, model.config
        weight = model.video_port.enter.weight
        self.device, self.dtype = weight.device, weight.dtype
        self.regions = regions(self.config)
        self.field, self.frames, self.actions = memory(self.config, self.regions, self.device,
                                                        cache_dtype or self.dtype)
        self._text: list[LayerKV] | None = None
        self._step = self._latents = 0
        self._acted = torch.zeros(self.config.chunk_actions, device=self.device)
        self._all_acted = False
        self._inputs: dict[str, Tensor] = {}
        self._last: ChunkPrediction | None = None
        self._capture = capture and self.device.type == "cuda"
        self._graph: tuple[torch.cuda.CUDAGraph, ChunkPrediction] | None = None

    @property
    def bytes(self) -> int:
        """Memory of keys, values and the slots kept aside."""
        own: int = sum(buffer.nbytes for ring in (self.frames, self.actions)
                  for buffer in (ring._sink_keys, ring._aside_keys, ring._aside_values, ring._aside_valid))
        return int(self.field.keys.nbytes + self.field.values.nbytes) + own

    @torch.inference_mode()
    def set_text(self, tokens_TD: Tensor) -> None:
        """Take a sentence's embedding [T, D], zeros after its last token.

        History stays valid: it never saw it. Where every token sees it (`shared`), observe the current chunk again; the
        history before that keeps the sentence that it was seen under.
        """
        self._last = None
        text = self.model.video.encode_text(self._own(tokens_TD)[None])
        if self._text is None or self._text[0][0].shape != text[0][0].shape:
            self._text = text
        else:  # where a captured loop looks for it
            for kept, new in zip(self._text, text, strict=True):
                kept[0].copy_(new[0])
                kept[1].copy_(new[1])

    @torch.inference_mode()
    def observe(self, latents_1NW: Tensor, actions_1UJ: Tensor | None, frame: int,
                valid_U: Tensor | None = None) -> None:
        """Encode the newest chunk: real latents, the first at time `frame`, and the actions executed during them.

        Replaces the current chunk. A chunk may still lack its last latent frames, with their actions; and of an
        episode's first chunk some or all actions do not exist (`valid_U` is 0 there).
        """
        at, count = self.regions, 0 if actions_1UJ is None else actions_1UJ.shape[1]
        self._step, self._latents = frame, latents_1NW.shape[1] // self.config.frame_tokens
        self._acted.zero_()
        self._acted[:count] = 1.0 if valid_U is None else valid_U.to(self._acted)
        self._all_acted = bool(self._acted.all())
        place = _first(at[CURRENT], latents_1NW.shape[1])
        see = slice(at[EXECUTED].start, place.stop) if self.shared else place
        rope = self._frame_rope(frame)[:, : latents_1NW.shape[1]]
        self._pass("video", self._own(latents_1NW), 0.0, rope, place, (see,))
        if actions_1UJ is not None:
            place = _first(at[DONE], count)
            see = slice(0, at[CURRENT].stop) if self.shared else place
            rope = self._action_rope(frame)[:, :count]
            self._pass("action", self._own(actions_1UJ), 0.0, rope, place, (see,))

    def commit(self) -> None:
        """Copy the current chunk, with its actions, into the history; observe the next one before predicting."""
        for ring, name in ((self.frames, CURRENT), (self.actions, DONE)):
            place = self.regions[name]
            ring.write(self.field.keys[:, :, :, place], self.field.values[:, :, :, place],
                       self._exists(name).to(ring.valid), step=self._step)

    def branch(self) -> None:
        """What is committed from now on is speculative."""
        self.frames.branch()
        self.actions.branch()

    def drop(self) -> None:
        """Return to the history at the last `branch`; observe again before predicting."""
        self.frames.drop()
        self.actions.drop()

    def accept(self) -> None:
        """Let what was committed since the last `branch` stand."""
        self.frames.accept()
        self.actions.accept()

    def reset(self) -> None:
        """Forget the history; the sentence stays."""
        self._last = None
        self.frames.reset()
        self.actions.reset()

    @torch.inference_mode()
    def predict(self, noise: ChunkNoise, held: Held | None = None, effort: Effort = WHOLE_PLAN) -> ChunkPrediction:
        """Video, then value, then action, each for its own number of steps, the finished ones frozen.

        `held` numbers of the actions are put back at every step, noised as the step is. What `effort` leaves out is
        that of the last prediction.
        """
        ahead = self._step + self._latents
        self._put("frames", self._frame_rope(ahead))
        self._put("actions", self._action_rope(ahead))
        given = {"video": noise.video, "value": noise.value, "action": noise.action}
        for name, start in given.items():
            if start is not None:
                self._put(name, self._own(start).float())
        nothing = torch.zeros_like(noise.action)
        self._put("known", nothing if held is None else held.values)
        self._put("held", nothing if held is None else held.where)
        present = {name for name, start in given.items() if start is not None}
        whole = effort.video and effort.value and effort.video_steps is None and len(present) == len(self._streams)
        if self._capture and whole and self._all_exist():
            self._last = self._replayed(present)
        else:
            self._last = self._loop(present, effort)
        return self._last

    def _replayed(self, present: set[str]) -> ChunkPrediction:
        """What `_loop` gives, out of one CUDA graph, captured at the first call."""
        if self._graph is None:
            self._loop(present)  # libraries choose and load their kernels outside the capture
            torch.cuda.synchronize(self.device)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                result = self._loop(present)
            self._graph = graph, result
        self._graph[0].replay()
        result = self._graph[1]
        return ChunkPrediction(result.video.clone(), None if result.value is None else result.value.clone(),
                               result.action.clone())

    def _loop(self, present: set[str], effort: Effort = WHOLE_PLAN) -> ChunkPrediction:
        """The whole decoding out of `_inputs` and the field: no copy from the host, no decision on data."""
        c, at, last = self.config, self.regions, self._last
        rope, everything = self._inputs["frames"], slice(0, at[FUTURE].stop)
        if effort.video or last is None:
            steps = effort.video_steps or c.video_steps
            video = self._denoise("video", steps, c.shift, rope, at[FUTURE], (everything,))
        else:
            video = last.video
        value = None if last is None else last.value
        if "value" in present and (effort.value or value is None):
            value = self._denoise("value", c.value_steps, c.shift, rope, at[VALUE],
                                  (slice(at[PAST].start, at[VALUE].stop),))
        value = value if "value" in present else None
        acted = slice(0, at[EXECUTED].stop)
        see = (acted, at[CURRENT], *((at[VALUE],) if "value" in present else ()), at[ACTION])
        if self.shared:
            self._pass("video", video.to(self.dtype), 0.0, rope, at[FUTURE], (everything,))
            see = (slice(0, at[ACTION].stop),)
        action = self._denoise("action", c.action_steps, 1.0, self._inputs["actions"], at[ACTION], see)
        return ChunkPrediction(video, value, action)

    def _put(self, name: str, x: Tensor) -> None:
        """Into a buffer that stays where it is."""
        if name not in self._inputs:
            self._inputs[name] = x.to(self.device).clone()
        self._inputs[name].copy_(x)

    def _denoise(self, name: str, steps: int, shift: float, rope: Tensor, place: slice,
                 see: tuple[slice, ...]) -> Tensor:
        x, start = self._inputs[name], self._inputs[name]
        for s, ds in levels(steps, shift):
            x = self._put_back(x, start, s) if name == "action" else x
            x = x + ds * self._pass(name, x.to(self.dtype), s, rope, place, see).float()
        return self._put_back(x, start, 0.0) if name == "action" else x

    def _put_back(self, x_1UJ: Tensor, start_1UJ: Tensor, s: float) -> Tensor:
        """The chunk with its held numbers at noise level s."""
        known, held = self._inputs["known"], self._inputs["held"]
        return torch.where(held > 0, (1 - s) * known + s * start_1UJ, x_1UJ)

    def _pass(self, name: str, x: Tensor, s: float, rope: Tensor, place: slice, see: tuple[slice, ...]) -> Tensor:
        model, level = self.model, torch.full((1,), s, device=self.device)
        text = self._text if self.shared or place == self.regions[FUTURE] else None
        self.field.bias = None if self._all_exist() else self._bias()
        velocity: Tensor = model.stream_of(name)(model.port_of(name), x, level, rope, self.field, place, see, text)
        return velocity

    @property
    def shared(self) -> bool:
        """Whether the actions share the video stream's blocks, and every token sees the sentence."""
        return self.model.action is None

    @property
    def _streams(self) -> tuple[str, ...]:
        return ("video", "value", "action") if self.config.value else ("video", "action")

    def _all_exist(self) -> bool:
        """Whether nothing needs hiding: as soon as the history is full of chunks with actions."""
        full = self._latents == self.config.chunk_latents
        return full and self._all_acted and self.frames.written > self.frames.slots

    def _bias(self) -> Tensor:
        """Hide the slots that do not exist [1, 1, 1, K]."""
        total = self.field.keys.shape[3]
        exists = torch.ones(total, device=self.device, dtype=self.dtype)
        exists[self.regions[PAST]] = self.frames.valid[0].to(self.dtype)
        exists[self.regions[EXECUTED]] = self.actions.valid[0].to(self.dtype)
        for name in (CURRENT, DONE):
            exists[self.regions[name]] = self._exists(name).to(self.dtype)
        return ((1 - exists) * MASKED)[None, None, None]

    def _exists(self, name: str) -> Tensor:
        """1 for every token of the current chunk's latents or actions that there is."""
        if name == DONE:
            return self._acted
        token = torch.arange(self.config.chunk_tokens, device=self.device)
        return (token < self._latents * self.config.frame_tokens).float()

    def _frame_rope(self, first: int) -> Tensor:
        c = self.config
        token = torch.arange(c.chunk_tokens)
        within = token % c.frame_tokens
        return rope_table(first + token // c.frame_tokens, within // c.columns, within % c.columns,
                          c.head_dim).to(self.device)

    def _action_rope(self, first: int) -> Tensor:
        """Action k of a latent frame f lies at time f + k / (n + 1), beside the canvas (row and column -1)."""
        c = self.config
        token = torch.arange(c.chunk_actions)
        n = c.actions_per_latent
        times = first + token // n + (token % n).double() / (n + 1)
        beside = -torch.ones(c.chunk_actions)
        return rope_table(times, beside, beside, c.head_dim).to(self.device)

    def _own(self, x: Tensor) -> Tensor:
        return x.to(self.device, self.dtype)


def _first(region: slice, count: int) -> slice:
    """The first tokens of a region."""
    return slice(region.start, region.start + count)
