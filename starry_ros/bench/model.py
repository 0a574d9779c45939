"""One plan on every runtime installed, one thread each, against eager PyTorch; and what the history cache saves.

All runtimes take turns within each round, on the same inputs and a full ring. Times are CPU time of the process: it
leaves out what other processes take from the core, and with one thread it is wall time on an idle machine.

Stages: `encode_text` once a sentence; `observe` a canvas; `remember` one slot's executed actions; then, with all their
denoising steps, `imagine`, `value` and `act`; `decode` the imagined frame, which a plan does only on request. `plan` is
observe, imagine, value, act and everything between. `plan_recomputing_history` encodes every slot of the ring again
before the plan, as a model without cache would. Weights do not matter to times, only the shape of the model does.
"""

from __future__ import annotations

import time

import numpy as np
import torch

from starry_ros.paths import model_dir
from starry_ros.report import bench_row
from starry_ros.robot_spec import RobotSpec
from starry_ros.types import F32, Record
from starry_ros.wam.checkpoint import Checkpoint, load_checkpoint
from starry_ros.wam.graph_files import GraphFiles, find_graphs
from starry_ros.wam.load import available, build_graph_runtime, differences
from starry_ros.wam.runtimes.base import Noise, Prediction
from starry_ros.wam.runtimes.runner import Arrays, Engine, GraphRunner
from starry_ros.wam.runtimes.torch_runtime import torch_runtime

MODEL = "tiny"
LEAST_ROUNDS = 10
MS_PER_S = 1e3
STAGES = {
    "encode_text": "encode_text", "observe": "observe", "remember_actions": "remember", "imagine": "imagine",
    "predict_value": "value", "act": "act", "decode": "decode",
}
PLAN, RECOMPUTED = "plan", "plan_recomputing_history"


def run(robot: RobotSpec, seconds: float = 12.0) -> list[Record]:
    """Rows `model/<runtime>/<stage>` in ms with their 95th percentile and PyTorch's time as baseline.

    `model/<runtime>/history_cache` is a plan with a full ring against one that encodes its history again. Runtimes
    other than PyTorch need the model's exported graphs. `seconds` is the length of the run, loading left out.
    """
    folder = model_dir(MODEL)
    checkpoint = load_checkpoint(folder, robot)
    return measure(checkpoint, find_graphs(folder, checkpoint), seconds)


def measure(checkpoint: Checkpoint, graphs: GraphFiles | None, seconds: float) -> list[Record]:
    """The rows of `run` for one model."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        runners = {"torch": torch_runtime(checkpoint.build_model(), checkpoint.autoencoder)}
        names = [] if graphs is None else [name for name in available() if name != "torch"]
        rows = []
        for name in names:
            assert graphs is not None
            runners[name] = build_graph_runtime(name, checkpoint, graphs)
            worst = max(differences(runners[name], runners["torch"], checkpoint.config.history_slots + 2))
            rows.append(bench_row(f"model/{name}/difference", worst, "model units"))
        subjects = {name: Subject(runner) for name, runner in runners.items()}
        _take_turns(list(subjects.values()), seconds)
    finally:
        torch.set_num_threads(threads)
    return [row for name, subject in subjects.items() for row in _rows(name, subject, subjects["torch"])] + rows


class Subject:
    """A runtime, inputs of a fixed seed, and the CPU seconds of each stage by round."""

    def __init__(self, runner: GraphRunner) -> None:
        self.runner = runner
        self.taken_s: dict[str, list[float]] = {}
        self._spent_s: dict[str, float] = {}
        self._draw_inputs()
        timed = {name: self._watched(stage, runner.engines[name]) for name, stage in STAGES.items()}
        runner.engines = {**runner.engines, **timed}
        runner.set_text(self._text_TD, np.ones(len(self._text_TD), np.float32))
        self._fill_ring()

    def round(self) -> None:
        """Run every stage once, on a full ring."""
        self._spent_s = {}
        self.runner.set_text(self._text_TD, np.ones(len(self._text_TD), np.float32))
        start_s = time.process_time()
        prediction = self._plan()
        self._spent_s[PLAN] = time.process_time() - start_s
        self.runner.decode(prediction.latents)
        self._remember()
        spent_s = dict(self._spent_s)
        start_s = time.process_time()
        self._fill_ring()
        self._plan()
        spent_s[RECOMPUTED] = time.process_time() - start_s
        for stage, value in spent_s.items():
            self.taken_s.setdefault(stage, []).append(value)

    def percentile_ms(self, stage: str, percent: float) -> float:
        """Over all rounds but the first, which warms up."""
        return MS_PER_S * float(np.percentile(self.taken_s[stage][1:], percent))

    def _draw_inputs(self) -> None:
        c, rng = self.runner.config, np.random.default_rng(0)

        def draw(*shape: int) -> F32:
            return rng.standard_normal(shape, dtype=np.float32)

        self._canvas_HWC = rng.integers(0, 256, (c.canvas_height_px, c.canvas_width_px, 3), dtype=np.uint8)
        self._text_TD, self._state_J = draw(c.text_tokens, c.text_width), draw(c.joints)
        self._executed_UJ, self._step = draw(c.history_actions, c.joints), 0
        self._noise = Noise(draw(1, c.frame_tokens, c.latent_token_width), draw(1, c.frame_tokens, c.value_token_width),
                            draw(1, c.chunk_steps, c.joints))

    def _plan(self) -> Prediction:
        self._step += self.runner.config.history_actions
        self.runner.observe(self._canvas_HWC, self._step)
        return self.runner.predict(self._noise, self._state_J)

    def _remember(self) -> None:
        self.runner.commit(self._executed_UJ, np.ones(len(self._executed_UJ), np.float32))

    def _fill_ring(self) -> None:
        for _ in range(self.runner.config.history_slots):
            self._step += self.runner.config.history_actions
            self.runner.observe(self._canvas_HWC, self._step)
            self._remember()

    def _watched(self, stage: str, engine: Engine) -> Engine:
        def run(arrays: Arrays) -> Arrays:
            start_s = time.process_time()
            outputs = engine(arrays)
            self._spent_s[stage] = self._spent_s.get(stage, 0.0) + time.process_time() - start_s
            return outputs

        return run


def _take_turns(subjects: list[Subject], seconds: float) -> None:
    """Rounds until the time is up, each in another order."""
    end_s, turn = time.perf_counter() + seconds, 0
    while turn < LEAST_ROUNDS or time.perf_counter() < end_s:
        for i in range(len(subjects)):
            subjects[(turn + i) % len(subjects)].round()
        turn += 1


def _rows(name: str, subject: Subject, baseline: Subject) -> list[Record]:
    rows = [
        bench_row(f"model/{name}/{stage}", subject.percentile_ms(stage, 50), "ms",
                  None if subject is baseline else baseline.percentile_ms(stage, 50),
                  p95=subject.percentile_ms(stage, 95))
        for stage in (PLAN, *STAGES.values())
    ]
    plan = subject.percentile_ms(PLAN, 50) + subject.percentile_ms("remember", 50)
    return [*rows, bench_row(f"model/{name}/history_cache", plan, "ms", subject.percentile_ms(RECOMPUTED, 50))]
