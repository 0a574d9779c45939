"""The ring and the denoising loop over seven graphs, whatever executes them."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping

import numpy as np

from starry_ros.errors import InputError, RuntimeUnavailable
from starry_ros.types import F32, U8
from starry_ros.wam.config import WamConfig
from starry_ros.wam.detail import patchify
from starry_ros.wam.gasam import CellGrid, measured_biases, predicted_biases
from starry_ros.wam.guidance import strength
from starry_ros.wam.kv_cache import Ring, Zeros, numpy_zeros
from starry_ros.wam.model import Ropes
from starry_ros.wam.runtimes.base import WHOLE_PLAN, Effort, Noise, Prediction
from starry_ros.wam.runtimes.graphs import graph_specs
from starry_ros.wam.sampler import joint_levels, levels

Arrays = dict[str, np.ndarray]
Engine = Callable[[Arrays], Arrays]
"""Runs one graph: arrays by input name to arrays by output name."""


class GraphRunner:
    """A `Runtime` over one engine a graph."""

    lag_steps = 0

    def __init__(self, name: str, config: WamConfig, engines: Mapping[str, Engine], zeros: Zeros = numpy_zeros) -> None:
        self.name, self.config, self.engines = name, config, dict(engines)
        self._inputs = {spec.name: tuple(spec.inputs) for spec in graph_specs(config)}
        self._ropes = Ropes(config)
        c = config
        self.frames, self.actions = (
            Ring(c.layers, c.heads, c.head_dim, c.history_slots, tokens, sinks=c.sink_slots, zeros=zeros)
            for tokens in (c.past_tokens, c.history_actions)
        )
        self._text: Arrays = {}
        self._current: Arrays = {}
        self._grid = None if config.geometry is None else CellGrid(config)
        self._scene: Arrays = {}
        self._step = 0
        self._branches: list[tuple[Arrays, Arrays, Arrays, int]] = []
        self._last: Arrays = {}

    @property
    def guides(self) -> bool:
        return "act_pull" in self.engines

    def set_text(self, tokens_TD: F32, mask_T: F32) -> None:
        mask = np.asarray(mask_T, np.float32)[None]
        self._text = {**self._run("encode_text", {"tokens": tokens_TD[None], "mask": mask}), "mask": mask}
        self._last = {}  # what another sentence imagined serves no more, nor after a `drop`, for the sentence stays
        self._branches = [(current, scene, {}, step) for current, scene, _, step in self._branches]

    def observe(self, canvas_HWC: U8, step: int) -> None:
        self._current = self._run("observe", {"canvas": canvas_HWC[None], "rope": self._ropes.frame(step).numpy()})
        self._step, self._scene = step, {}
        self._place_sinks()

    def look(self, scene: Arrays) -> None:
        self._scene = scene

    def commit(self, actions_UJ: F32, valid_U: F32) -> None:
        import torch

        rope = self._ropes.actions(self._step + 1 + torch.arange(self.config.history_actions)).numpy()
        keys = self._run("remember_actions", {"actions": actions_UJ[None], "valid": valid_U[None], "rope": rope})
        kind = "current" if self.config.states is None else "slot"
        self.frames.write(self._current[f"{kind}_k"], self._current[f"{kind}_v"], step=self._step)
        self.actions.write(keys["executed_k"], keys["executed_v"], valid_U, step=self._step)

    @contextlib.contextmanager
    def supposing(self, actions_UJ: F32, valid_U: F32) -> Iterator[None]:
        import torch

        rope = self._ropes.actions(self._step + 1 + torch.arange(self.config.history_actions)).numpy()
        keys = self._run("remember_actions", {"actions": actions_UJ[None], "valid": valid_U[None], "rope": rope})
        self.actions.branch()
        self.actions.write(keys["executed_k"], keys["executed_v"], valid_U, step=self._step)
        try:
            yield
        finally:
            self.actions.drop()

    def branch(self) -> None:
        for ring in (self.frames, self.actions):
            ring.branch()
        self._branches.append((self._current, self._scene, self._last, self._step))

    def drop(self) -> None:
        for ring in (self.frames, self.actions):
            ring.drop()
        self._current, self._scene, self._last, self._step = self._branches.pop()
        self._place_sinks()

    def accept(self) -> None:
        for ring in (self.frames, self.actions):
            ring.accept()
        self._branches.pop()

    def reset(self) -> None:
        self.frames.reset()
        self.actions.reset()
        self._current, self._scene, self._branches, self._last = {}, {}, [], {}

    def predict(self, noise: Noise, state_J: F32, effort: Effort = WHOLE_PLAN) -> Prediction:
        c, at = self.config, {"start": time.monotonic()}
        known: Arrays = {
            **self._current, **self._text, "state": np.asarray(state_J, np.float32)[None],
            "past_k": self.frames.keys, "past_v": self.frames.values, "past_valid": self.frames.valid,
            "executed_k": self.actions.keys, "executed_v": self.actions.values, "executed_valid": self.actions.valid,
        }
        ropes, step = self._ropes, self._step
        future, now, chunk = ropes.future(step), ropes.frame(step), ropes.chunk(step)
        if c.coupling == "joint":
            known |= self._denoise_jointly(noise, {"rope_x": future.numpy(), "rope_m": now.numpy(),
                                                   "rope_a": chunk.numpy()}, known, effort)
            at["joint"] = time.monotonic()
            return _prediction(known, at)
        known |= self._weigh(known, 1.0, 1.0)
        last, self._last = self._last, {}
        if effort.video or not last:
            steps = effort.video_steps or c.video_steps
            self._last |= self._denoise("imagine", "x", noise.video, steps, future.numpy(), known)
        known |= last | self._last
        at["video"] = time.monotonic()
        if effort.value or not last:
            self._last |= self._denoise("predict_value", "m", noise.value, c.value_steps, now.numpy(), known)
        self._last = last | self._last
        known |= self._last
        at["value"] = time.monotonic()
        known |= self._denoise("act", "a", noise.action, c.action_steps, chunk.numpy(), known, effort)
        at["action"] = time.monotonic()
        return _prediction(known, at)

    def latents(self) -> F32:
        import torch

        tokens: F32 = patchify(torch.from_numpy(self._current["latents"]), self.config.latent_patch).numpy()[0]
        return tokens

    def decode(self, latents: F32) -> U8:
        image: U8 = self._run("decode", {"x": latents})["imagined"][0]
        return image

    def _place_sinks(self) -> None:
        """Show no sink as older than `sink_age_steps`: further back than training saw, and at last ambiguous."""
        if not self.config.sink_slots:
            return
        import torch

        for ring in (self.frames, self.actions):
            turns = [max(0, self._step - self.config.sink_age_steps - step) for step in ring.steps[: ring.sinks]]
            ring.turn_sinks(self._ropes.actions(torch.tensor(turns).repeat_interleave(ring.tokens)).numpy())

    def _denoise(
        self, graph: str, variable: str, start: F32, steps: int, rope: F32, known: Arrays, effort: Effort = WHOLE_PLAN
    ) -> Arrays:
        """Euler from noise to clean; returns the variable and everything else that the last pass gave."""
        x, out = np.asarray(start, np.float32), {}
        for s, ds in levels(steps):
            level = {"s": np.full(1, s, np.float32), "ds": np.full(1, ds, np.float32)}
            x = _put_back(x, start, effort.known_DJ, s)
            inputs = {**known, variable: x, **level, "rope": rope}
            out = self._run(graph, inputs)
            x = out[f"{variable}_next"]
            if effort.target_KJ is not None and effort.weight_K is not None:
                x = x - ds * strength(s) * self._pull(inputs, effort.target_KJ, effort.weight_K)
        return {**out, variable: _put_back(x, start, effort.known_DJ, 0.0)}

    def _pull(self, inputs: Arrays, target_KJ: F32, weight_K: F32) -> F32:
        if "act_pull" not in self.engines:
            fix = "use runtime torch, or another way to splice"
            raise RuntimeUnavailable(f"runtime {self.name}", "gives no gradient for guided inpainting", fix=fix)
        asked = {name: inputs[name] for name in self._inputs["act"]}
        asked |= {"target": target_KJ[None], "weight": weight_K[None, :, None]}
        pulled: F32 = self.engines["act_pull"](asked)["pull"]
        return pulled

    def _denoise_jointly(self, noise: Noise, ropes: Arrays, known: Arrays, effort: Effort) -> Arrays:
        """Euler of all streams together, each on its own grid of noise levels; known steps are put back."""
        if effort.target_KJ is not None:
            raise RuntimeUnavailable("joint coupling", "gives no gradient for guided inpainting",
                                     fix="use another way to splice")
        c, out = self.config, {}
        now = {"x": noise.video, "m": noise.value, "a": noise.action}
        for grid in joint_levels(c.video_steps, c.value_steps, c.action_steps):
            for name, (s, ds) in zip(now, grid, strict=True):
                known |= {f"s_{name}": np.full(1, s, np.float32), f"ds_{name}": np.full(1, ds, np.float32)}
            known |= self._weigh(known, grid[0][0], grid[2][0])
            now["a"] = _put_back(now["a"], noise.action, effort.known_DJ, grid[2][0])
            out = self._run("denoise", {**known, **ropes, **now})
            now = {name: out[f"{name}_next"] for name in now}
        return {**out, **now, "a": _put_back(now["a"], noise.action, effort.known_DJ, 0.0)}

    def _weigh(self, known: Arrays, s_video: float, s_action: float) -> Arrays:
        """Biases of geometry-aware attention, for the scene that `look` gave; nothing without a geometry part."""
        if self._grid is None or not self.config.gasam:
            return {}
        if not self._scene:
            raise InputError("plan", "the scene is unknown", fix="give observe() the depth, cameras and hands")
        if self.config.gasam == "measured":
            return measured_biases(self.config, self._grid, self._scene)
        levels_now = {"s_x": np.full(1, s_video, np.float32), "s_a": np.full(1, s_action, np.float32)}
        rope = {"rope": self._ropes.future(self._step).numpy()}
        return predicted_biases(self.config, self._run("foresee", {**known, **self._scene, **levels_now, **rope}))

    def _run(self, graph: str, known: Arrays) -> Arrays:
        return self.engines[graph]({name: known[name] for name in self._inputs[graph]})


def _put_back(x: F32, start: F32, known_DJ: F32 | None, s: float) -> F32:
    """The first steps of a chunk [1, K, J] replaced by known ones at noise level s."""
    if known_DJ is None or not len(known_DJ):
        return x
    kept = slice(0, len(known_DJ))
    x = np.array(x)
    x[:, kept] = (1 - s) * known_DJ + s * np.asarray(start)[:, kept]
    return x


def _prediction(known: Arrays, at: dict[str, float]) -> Prediction:
    """What the last passes gave; `at` holds the start and the end of every stage."""
    return Prediction(
        actions_KJ=known["a"][0], map_EYX=known["map"][0], landing_EV2=known["landing"][0],
        seen_EV=1 / (1 + np.exp(-known["seen"][0])), latents=known["x"],
        seconds=dict(zip(list(at)[1:], np.diff(list(at.values())).tolist(), strict=True)),
    )
