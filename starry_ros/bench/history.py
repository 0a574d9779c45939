"""What the fixed history costs and saves, on a small model of the published grammar.

`history/<runtime>/chunk_64`: one chunk (observe, predict, commit) of a long episode over one of a young one, on the
shipped model. `history/reference_way`: a chunk at 32 chunks of history, decoded the way public code of this model
family does it, against the field of `wam.wan.model`: same weights, same inputs, same numbers. Times are CPU time of the
process.
"""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from starry_ros.paths import model_dir
from starry_ros.report import bench_row
from starry_ros.robot_spec import RobotSpec
from starry_ros.types import F32, Record
from starry_ros.wam.checkpoint import Checkpoint, load_checkpoint
from starry_ros.wam.graph_files import GraphFiles, find_graphs
from starry_ros.wam.load import available, build_graph_runtime
from starry_ros.wam.runtimes.base import Noise
from starry_ros.wam.runtimes.runner import GraphRunner
from starry_ros.wam.runtimes.torch_runtime import torch_runtime
from starry_ros.wam.sampler import levels
from starry_ros.wam.wan.chunk import ChunkNoise
from starry_ros.wam.wan.config import WanConfig
from starry_ros.wam.wan.decoding import ChunkDecoder
from starry_ros.wam.wan.load import random_model
from starry_ros.wam.wan.model import WanModel
from starry_ros.wam.wan.streams import Block, rope_table, rotate

MODEL = "tiny"
MS_PER_S = 1e3
YOUNG, OLD, AROUND, PAIRS = 8, 64, 4, 27
SMALL = WanConfig(
    name="small", canvas_height_px=192, canvas_width_px=160, layers=4, heads=4, head_dim=64, feed_forward=768,
    value=None, action=None, text_width=1024, text_tokens=512, history_chunks=32, chunk_latents=2,
    actions_per_latent=8, joints=14, latent_channels=16, video_steps=3, action_steps=10,
)


def run(robot: RobotSpec, chunks: int = 3) -> list[Record]:
    """All rows. `chunks` is how many are timed in each comparison with the reference."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        folder = model_dir(MODEL)
        checkpoint = load_checkpoint(folder, robot)
        return [*flatness_rows(checkpoint, find_graphs(folder, checkpoint)), *reference_rows(SMALL, chunks)]
    finally:
        torch.set_num_threads(threads)


def flatness_rows(checkpoint: Checkpoint, graphs: GraphFiles | None) -> list[Record]:
    """Cost of chunk 64 over chunk 8 for each runtime installed: median ratio of chunks from the 60th and the 4th on.

    An old and a young episode take turns, so that what slows the machine slows both.
    """
    rows = []
    for name in ("torch", *(name for name in available() if name != "torch" and graphs is not None)):
        young, old = (_Episode(_runner(name, checkpoint, graphs)) for _ in range(2))
        for episode, first in ((young, YOUNG), (old, OLD)):
            for _ in range(first - AROUND):
                episode.chunk_ms()
        turns = [tuple(episode.chunk_ms() for episode in ((young, old), (old, young))[i % 2]) for i in range(PAIRS)]
        taken_ms = np.array([turn[:: 1 - 2 * (i % 2)] for i, turn in enumerate(turns)])
        middle, runner = np.median(taken_ms, axis=0), old.runner
        rows.append(bench_row(f"history/{name}/chunk_64", float(middle[1]), "ms", float(middle[0]),
                              cost_ratio=float(np.median(taken_ms[:, 1] / taken_ms[:, 0])),
                              bytes=runner.frames.bytes + runner.actions.bytes))
    return rows


def _runner(name: str, checkpoint: Checkpoint, graphs: GraphFiles | None) -> GraphRunner:
    if name == "torch" or graphs is None:
        return torch_runtime(checkpoint.build_model(), checkpoint.autoencoder)
    return build_graph_runtime(name, checkpoint, graphs)


class _Episode:
    """Chunk after chunk of one episode, always the same inputs."""

    def __init__(self, runner: GraphRunner) -> None:
        c, rng = runner.config, np.random.default_rng(0)

        def draw(*shape: int) -> F32:
            return rng.standard_normal(shape, dtype=np.float32)

        self.runner, self._chunks = runner, 0
        self._canvas_HWC = rng.integers(0, 256, (c.canvas_height_px, c.canvas_width_px, 3), dtype=np.uint8)
        self._noise = Noise(draw(1, c.frame_tokens, c.latent_token_width), draw(1, c.frame_tokens, c.value_token_width),
                            draw(1, c.chunk_steps, c.joints))
        self._state, self._done = draw(c.joints), draw(c.history_actions, c.joints)
        runner.reset()
        runner.set_text(draw(c.text_tokens, c.text_width), np.ones(c.text_tokens, np.float32))

    def chunk_ms(self) -> float:
        """CPU time of observe, predict and commit."""
        actions, start_s = self.runner.config.history_actions, time.process_time()
        self.runner.observe(self._canvas_HWC, self._chunks * actions)
        self.runner.predict(self._noise, self._state)
        self.runner.commit(self._done, np.ones(actions, np.float32))
        self._chunks += 1
        return MS_PER_S * (time.process_time() - start_s)


# ---- against the public reference's way ------------------------------------------------------------------------------


@dataclass
class Pool:
    """One layer's keys and values [2, slots, H, P] with what each slot holds, as the public code keeps them."""

    keys: Tensor
    values: Tensor
    exists: Tensor
    order: Tensor
    predicted: Tensor
    written: int = field(default=0)


class ReferenceWay:
    """Decoding as public code of this family does it.

    Batch 2 for classifier-free guidance in every pass, also where its scale is 1; the sentence's keys made again in
    every layer of every pass; valid slots looked up and gathered into new tensors in every layer of every pass;
    predicted tokens written to the pool and taken out again.
    """

    def __init__(self, model: WanModel, text_TD: Tensor) -> None:
        self.model, self.c = model, model.config
        self._text = text_TD[None].repeat(2, 1, 1)
        slots = (self.c.history_chunks + 2) * self.c.slot_tokens
        shape = (2, slots, self.c.heads, self.c.head_dim)
        self.pools = [Pool(torch.zeros(shape), torch.zeros(shape), torch.zeros(slots, dtype=torch.bool),
                           torch.full((slots,), -1), torch.zeros(slots, dtype=torch.bool))
                      for _ in range(self.c.layers)]

    @torch.inference_mode()
    def observe(self, latents: Tensor, actions: Tensor, frame: int) -> None:
        """Drop what was predicted and store what was real."""
        for pool in self.pools:
            pool.exists[pool.predicted] = False
            pool.predicted[:] = False
        self._pass("video", latents, 0.0, self.frame_rope(frame), keep=True)
        self._pass("action", actions, 0.0, self.action_rope(frame), keep=True)

    @torch.inference_mode()
    def predict(self, noise: ChunkNoise, ahead: int) -> tuple[Tensor, Tensor]:
        """Video, then actions; a last clean pass of each stores it as predicted."""
        results = []
        for name, x, steps, shift, rope in (
            ("video", noise.video, self.c.video_steps, self.c.shift, self.frame_rope(ahead)),
            ("action", noise.action, self.c.action_steps, 1.0, self.action_rope(ahead)),
        ):
            for s, ds in levels(steps, shift):
                x = x + ds * self._pass(name, x, s, rope)[:1]
            self._pass(name, x, 0.0, rope, keep=True, predicted=True)
            results.append(x)
        return results[0], results[1]

    def _pass(self, name: str, x: Tensor, s: float, rope: Tensor, keep: bool = False,
              predicted: bool = False) -> Tensor:
        stream, port = self.model.video, self.model.port_of(name)
        vector, six = port.time(torch.full((2,), s))
        h = port.enter(x.repeat(2, 1, 1))
        text = stream.text_in[1](F.gelu(stream.text_in[0](self._text), approximate="tanh"))
        for block, pool in zip(stream.blocks, self.pools, strict=True):
            assert isinstance(block, Block)
            h = self._block(block, pool, h, six, rope, text, keep, predicted)
        shift, scale = (vector[:, None] + stream.modulation)[:, :, None].unbind(1)
        out: Tensor = port.leave(F.layer_norm(h, (stream.width,), eps=stream.floor) * (1 + scale) + shift)
        return out

    def _block(self, b: Block, pool: Pool, h: Tensor, six: Tensor, rope: Tensor, text: Tensor,
               keep: bool, predicted: bool) -> Tensor:
        shift, scale, gate, shift2, scale2, gate2 = (six + b.modulation)[:, None].unbind(2)
        normed = F.layer_norm(h, (b.width,), eps=b.floor) * (1 + scale) + shift
        q, k = (rotate(part.unflatten(-1, (self.c.heads, -1)).transpose(1, 2), rope)
                for part in (b.q_norm(b.q(normed)), b.k_norm(b.k(normed))))
        v = b.v(normed).unflatten(-1, (self.c.heads, -1))
        slots = _write(pool, k.transpose(1, 2), v, predicted)
        valid = pool.exists.nonzero().squeeze(-1)
        keys, values = pool.keys[:, valid], pool.values[:, valid]
        attended = F.scaled_dot_product_attention(q, keys.transpose(1, 2), values.transpose(1, 2))
        if not keep:
            pool.exists[slots] = False
        h = h + b.out(attended.transpose(1, 2).flatten(2)) * gate
        assert b.text is not None
        h = h + b.text(h, b.text.keys(text))
        normed = F.layer_norm(h, (b.width,), eps=b.floor) * (1 + scale2) + shift2
        out: Tensor = h + b.down(F.gelu(b.up(normed), approximate="tanh")) * gate2
        return out

    def frame_rope(self, first: int) -> Tensor:
        """Times and places of a chunk's latent tokens."""
        c, token = self.c, torch.arange(self.c.chunk_tokens)
        within = token % c.frame_tokens
        return rope_table(first + token // c.frame_tokens, within // c.columns, within % c.columns, c.head_dim)

    def action_rope(self, first: int) -> Tensor:
        """Times of a chunk's actions."""
        c, token = self.c, torch.arange(self.c.chunk_actions)
        n, beside = c.actions_per_latent, -torch.ones(self.c.chunk_actions)
        return rope_table(first + token // n + (token % n).double() / (n + 1), beside, beside, c.head_dim)


def _write(pool: Pool, keys: Tensor, values: Tensor, predicted: bool) -> Tensor:
    """Into free slots, or over the oldest."""
    size = keys.shape[1]
    free = (~pool.exists).nonzero().squeeze(-1)
    if len(free) < size:
        used = pool.exists.nonzero().squeeze(-1)
        oldest = used[torch.argsort(pool.order[used], stable=True)[: size - len(free)]]
        pool.exists[oldest] = False
        free = (~pool.exists).nonzero().squeeze(-1)
    slots = free[:size]
    pool.keys[:, slots], pool.values[:, slots] = keys, values
    pool.exists[slots], pool.predicted[slots] = True, predicted
    pool.order[slots] = pool.written
    pool.written += 1
    return slots


def reference_rows(config: WanConfig, chunks: int) -> list[Record]:
    """The last chunks before anything is evicted, ours and theirs in turn, and how far apart their numbers are.

    (Eviction differs: they drop tokens, and predicted tokens push out real ones.)
    """
    config = dataclasses.replace(config, value=None, action=None)
    model, draw = random_model(config, torch.float32, "cpu"), torch.Generator().manual_seed(1)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw)

    text = normal(config.text_tokens, config.text_width)
    ours, theirs = ChunkDecoder(model), ReferenceWay(model, text)
    ours.set_text(text)
    taken: dict[str, list[float]] = {"ours": [], "theirs": []}
    worst, start = 0.0, config.history_chunks + 1 - chunks
    for i in range(config.history_chunks + 1):
        latents = normal(1, config.chunk_tokens, config.token_width)
        done = normal(1, config.chunk_actions, config.joints)
        noise = ChunkNoise(normal(1, config.chunk_tokens, config.token_width), None,
                           normal(1, config.chunk_actions, config.joints))
        frame = i * config.chunk_latents
        marks = [time.process_time()]
        if i:
            ours.commit()
        ours.observe(latents, done, frame)
        mine = ours.predict(noise) if i >= start else None
        marks.append(time.process_time())
        theirs.observe(latents, done, frame)
        its = theirs.predict(noise, frame + config.chunk_latents) if i >= start else None
        marks.append(time.process_time())
        if mine is not None and its is not None:
            taken["ours"].append(MS_PER_S * (marks[1] - marks[0]))
            taken["theirs"].append(MS_PER_S * (marks[2] - marks[1]))
            worst = max(worst, float((mine.video - its[0]).abs().max()), float((mine.action - its[1]).abs().max()))
    return [
        bench_row("history/reference_way", float(np.median(taken["ours"])), "ms", float(np.median(taken["theirs"])),
                  history_chunks=config.history_chunks),
        bench_row("history/reference_difference", worst, "model units"),
    ]
