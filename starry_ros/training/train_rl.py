"""Stage two: `starry train-rl`. GRPO on the action stream alone, everything else frozen and proven so (AIM 3.6).

Layouts are played in groups of episodes whose plans are drawn around the served ones. What a plan earns and loses,
compared with the others of its group at the same moment, is its advantage (`rl_groups.py`, `rl_rollout.py`). A drawn
plan is an action with an exact likelihood (`rl_sampler.py`), its ratio clipped as in PPO; the divergence from the first
weights is between Gaussians of one width.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from starry_ros.errors import CheckpointError, ConfigError
from starry_ros.paths import model_dir, robot_file
from starry_ros.robot_spec import RobotSpec, load_robot_spec
from starry_ros.sim.tasks import TASKS
from starry_ros.training.budgets import RlConfig
from starry_ros.training.compute import PROCESSOR, Compute, chosen_compute
from starry_ros.training.finite import clip_gradients
from starry_ros.training.pool import Workers
from starry_ros.training.rl_groups import Schedule, in_order
from starry_ros.training.rl_rollout import play_rollout
from starry_ros.training.rl_sampler import Draw, aims, along, log_likelihood, means
from starry_ros.training.same_run import option, refuse
from starry_ros.training.store import STATE, Progress, load_state, read_records, save_state, write_records
from starry_ros.types import Record
from starry_ros.wam.checkpoint import CONFIG, Checkpoint, load_checkpoint, save_checkpoint
from starry_ros.wam.model import WorldActionModel
from starry_ros.wam.runtimes.graphs import build_graphs, graph_specs

ACTION_STREAM = ("action.", "action_in.", "state_in.", "step_position", "landing.", "action_out.")
"""Parameters that stage two may change. Keys of executed actions come from the same stream; they are part of what a
plan saw, so no gradient flows through them."""
OPTIONS = {"tasks": "--task"}
"""How an option is given, where that is not its name."""
TOGETHER = 8
"""Plans in one pass: more cost memory, fewer cost time."""
LOWER_RATE = "train anew with a lower --learning-rate"
LEASH = 0.2
"""Deviation of the Gaussians whose divergence is told, in shares of a joint's usual change: in every direction, those
that nothing is drawn in included."""

def grpo_loss(log_p_D: Tensor, old_D: Tensor, advantage_D: Tensor, clip: float) -> tuple[Tensor, Tensor]:
    """Clipped objective of plans, to be minimised [D], and which were clipped [D]."""
    ratio = (log_p_D - old_D).exp()
    held = ratio.clamp(1 - clip, 1 + clip)
    gain = torch.minimum(ratio * advantage_D, held * advantage_D)
    return -gain, gain.detach() < (ratio * advantage_D).detach()


def divergence(mean_DJ: Tensor, first_DJ: Tensor, spread: float) -> Tensor:
    """KL divergence [D] of Gaussians with one deviation: |mean - first|^2 / (2 deviation^2)."""
    return (mean_DJ - first_DJ).square().sum(-1) / (2 * spread**2)


class Learner:
    """The model, its first weights, and the optimiser of the action stream."""

    def __init__(self, checkpoint: Checkpoint, config: RlConfig, compute: Compute = PROCESSOR) -> None:
        self.config, self._compute = config, compute
        self.model: WorldActionModel = checkpoint.build_model().to(compute.device)
        self.trained = [name for name, _ in self.model.named_parameters() if name.startswith(ACTION_STREAM)]
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_(name in self.trained)
        self.first = copy.deepcopy(self.model).requires_grad_(False)
        spec = next((spec for spec in graph_specs(self.model.config) if spec.name == "act"), None)
        if spec is None:
            raise ConfigError("train-rl", "needs a model whose streams run one after the other", got="coupling joint")
        self._names = tuple(spec.inputs)
        self._act: nn.Module = build_graphs(self.model, checkpoint.autoencoder)["act"]
        self._first_act: nn.Module = build_graphs(self.first, checkpoint.autoencoder)["act"]
        parameters = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.optimiser = torch.optim.AdamW(parameters, lr=config.learning_rate, weight_decay=0.0)

    def update(
        self, samples: Sequence[tuple[Draw, float]], rng: np.random.Generator, where: str = "train-rl"
    ) -> Record:
        """Some epochs over plans with their advantages; returns statistics. TrainingError where numbers are lost."""
        parameters = self.optimiser.param_groups[0]["params"]
        sums: dict[str, float] = {}
        for _ in range(self.config.epochs):
            order = rng.permutation(len(samples))
            for part in np.array_split(order, -(-len(order) // self.config.batch)):  # none is much smaller than others
                chosen = [samples[int(i)] for i in part]
                self.optimiser.zero_grad(set_to_none=True)
                for some in (chosen[i : i + TOGETHER] for i in range(0, len(chosen), TOGETHER)):
                    with self._compute.here():
                        found = self._backward(some, len(chosen))
                    for name, value in found.items():
                        sums[name] = sums.get(name, 0.0) + value
                norm = clip_gradients(parameters, self.config.clip_norm, sums["loss"] + sums["kl"], where, LOWER_RATE)
                sums["gradient"] = sums.get("gradient", 0.0) + norm * len(chosen)
                self.optimiser.step()
        return {name: value / (len(samples) * self.config.epochs) for name, value in sums.items()}

    def _backward(self, samples: Sequence[tuple[Draw, float]], count: int) -> dict[str, float]:
        """Gradients of some of an optimiser step's `count` plans, in one pass; sums of their statistics."""
        config, draws = self.config, [draw for draw, _ in samples]
        advantage = torch.tensor([advantage for _, advantage in samples])
        mean_DJ = means(self._act, self._names, draws)
        with torch.no_grad():
            first_DJ = means(self._first_act, self._names, draws)
        old = torch.tensor([draw.log_p for draw in draws])
        log_p = log_likelihood(along(aims(draws), draws), along(mean_DJ, draws), config.spread)
        loss, clipped = grpo_loss(log_p, old, advantage, config.clip)
        kl = divergence(mean_DJ, first_DJ, LEASH)
        ((loss + config.kl_weight * kl).sum() / count).backward()
        ratio_off = ((log_p - old).exp() - 1).abs()
        found = {"loss": loss, "kl": kl, "clipped": clipped.float(), "ratio_off": ratio_off}
        return {name: float(value.detach().sum()) for name, value in found.items()}


def fingerprint(tensors: Iterable[tuple[str, Tensor]]) -> str:
    """SHA-256 over names and bytes."""
    digest = hashlib.sha256()
    for name, value in sorted(tensors, key=lambda item: item[0]):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def frozen_fingerprint(model: WorldActionModel, trained: Sequence[str]) -> str:
    """Of every tensor that stage two must not change."""
    chosen = set(trained)
    return fingerprint((name, value) for name, value in model.state_dict().items() if name not in chosen)


class RlTrainer:
    """Rolls out, updates, saves; resumable to the iteration."""

    def __init__(
        self, model: Path, spec: RobotSpec, config: RlConfig, out: Path, compute: Compute = PROCESSOR
    ) -> None:
        self.spec, self.config, self.out = spec, config, out
        self.start = load_checkpoint(model, spec)
        self.schedule = Schedule(out / "checkpoint", spec, config, self.start.config.action_steps)
        self.learner = Learner(self.start, config, compute)
        self.frozen = frozen_fingerprint(self.learner.model, self.learner.trained)
        _require_same_run(out, self._identity())
        self.progress: Progress = load_state(out, self.learner.model, {}, self.learner.optimiser)
        self._prove()
        self._records = read_records(out, "iteration", self.progress.step)
        self.save()

    def iterate(self, workers: Workers) -> Record:
        """One iteration: groups of episodes, then the update. Returns what goes into metrics.jsonl."""
        step = self.progress.step
        played = in_order(workers.run(play_rollout, self.schedule.jobs(step)))
        samples, rng = self.schedule.credited(played), np.random.default_rng([self.config.seed, step])
        statistics = self.learner.update(samples, rng, f"{self.out}, iteration {step + 1}") if samples else {}
        self.progress.step += 1
        self._prove()
        record = {
            "iteration": self.progress.step, "success": float(np.mean([each.success for each in played])),
            "lost_s": float(np.mean([each.expected_s[-1] - each.expected_s[0] for each in played])),
            "dense": float(np.mean([np.mean(each.rewards or [0.0]) for each in played])), "episodes": len(played),
            "samples": len(samples), "advantage": float(np.mean([abs(value) for _, value in samples] or [0.0])),
            **statistics, "frozen": self.frozen[:16],
        }
        self._records.append(record)
        self.save()
        return record

    def _identity(self) -> Record:
        """What must stay the same for the run to be the same one: everything but how long it is."""
        config = dataclasses.asdict(self.config) | {"tasks": list(self.config.tasks)}
        del config["iterations"]
        return {"model": self.start.weights_sha256[:16], **config}

    def _prove(self) -> None:
        """CheckpointError if any frozen tensor differs from the model that this began with."""
        found = frozen_fingerprint(self.learner.model, self.learner.trained)
        if found != self.frozen:
            raise CheckpointError(str(self.out), "a frozen tensor has changed", got=found[:16],
                                  expected=self.frozen[:16], fix="resume with the model that this run began with")

    def save(self) -> None:
        """What was measured, state to resume from, and a checkpoint to serve, in this order: see `read_records`."""
        self.out.mkdir(parents=True, exist_ok=True)
        write_records(self.out, self._records)
        save_state(self.out, self.learner.model, {}, self.learner.optimiser, self.progress)
        stage_2 = {"iterations_done": self.progress.step, "iterations": self.config.iterations, **self._identity()}
        training = {**self.start.training, "stage_2": stage_2}
        weights = {name: value.detach().cpu().clone() for name, value in self.learner.model.state_dict().items()}
        save_checkpoint(self.out / "checkpoint", dataclasses.replace(self.start, model=weights, training=training))


def _require_same_run(out: Path, identity: Record) -> None:
    """Raises ConfigError where the run in `out` began with another model, or with other options."""
    path = out / "checkpoint" / CONFIG
    if (out / STATE).exists() and path.exists():
        run = json.loads(path.read_text(encoding="utf-8"))["training"].get("stage_2", {})
        refuse(out, {OPTIONS.get(name, option(name)): (run[name], value) for name, value in identity.items()
                     if run.get(name, value) != value})


def train_rl_command(args: argparse.Namespace) -> int:
    """`starry train-rl`: returns 0 when the run is saved."""
    names = {field.name for field in dataclasses.fields(RlConfig)} - {"tasks", "clip_norm"}
    config = RlConfig(tasks=tuple(args.task or TASKS[:1]), **{name: getattr(args, name) for name in names})
    compute = chosen_compute(args.device)
    trainer = RlTrainer(model_dir(args.model), load_robot_spec(robot_file(args.robot)), config, args.out, compute)
    with Workers(args.workers) as workers:
        while trainer.progress.step < config.iterations:
            record = trainer.iterate(workers)
            shown = ("success", "lost_s", "samples", "advantage", "dense", "kl", "clipped", "ratio_off", "gradient")
            text = "  ".join(f"{name} {record[name]:.4f}" for name in shown if name in record)
            print(f"iteration {record['iteration']}/{config.iterations}  {text}", flush=True)
    print(f"{args.out / 'checkpoint'}: {len(trainer.learner.trained)} tensors trained, the others unchanged "
          f"(sha256 {trainer.frozen[:16]})")
    return 0
