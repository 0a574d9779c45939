"""Stage two: `starry train-rl`. GRPO on the action stream alone, everything else frozen and proven so (AIM 3.6).

A group is one layout and sentence played several times with different noise; layouts whose outcomes differ are played
again (`rl_layouts`). An episode's return is the mean reward of its plans plus the bonus for success; its advantage is
the return, normalised within the group. Every noisy step of the sampler is an action with an exact likelihood ratio,
clipped as in PPO; the divergence from the first weights is exact too, between Gaussians of one width.
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
from starry_ros.sim.cases import Case
from starry_ros.sim.tasks import TASKS
from starry_ros.training.budgets import RlConfig
from starry_ros.training.pool import run_jobs
from starry_ros.training.rl_layouts import next_layouts
from starry_ros.training.rl_rollout import FIRST_SEED, Rollout, RolloutJob, play_rollout
from starry_ros.training.rl_sampler import Draw, deviations, log_likelihoods, means
from starry_ros.training.same_run import refuse
from starry_ros.training.store import STATE, Progress, load_state, read_records, save_state, write_records
from starry_ros.types import Record
from starry_ros.wam.checkpoint import CONFIG, Checkpoint, load_checkpoint, save_checkpoint
from starry_ros.wam.model import WorldActionModel
from starry_ros.wam.runtimes.graphs import build_graphs, graph_specs

ACTION_STREAM = ("action.", "action_in.", "state_in.", "step_position", "landing.", "action_out.")
"""Parameters that stage two may change. Keys of executed actions come from the same stream; they are part of what a
plan saw, so no gradient flows through them."""
OPTIONS = {"model": "--model", "tasks": "--task", "setting": "--setting", "groups": "--groups",
           "group_size": "--group-size"}
"""What the layouts of a run and their groups follow from: another of these makes it another run."""
TOGETHER = 8
"""Plans in one pass: more cost memory, fewer cost time."""


LEAST_SPREAD = 0.1
"""Returns that differ by less are not blown up: where every episode of a group succeeds, or none, what is left is the
third digit of the value map's reward, and it must not weigh as much as success."""


def advantages(returns: Sequence[float]) -> np.ndarray:
    """Returns of one group less their mean, over their deviation or `LEAST_SPREAD`; all 0 when they are equal."""
    values = np.array(returns, dtype=np.float64)
    advantage: np.ndarray = (values - values.mean()) / max(float(values.std()), LEAST_SPREAD)
    return advantage


def grpo_loss(log_p_N: Tensor, old_N: Tensor, advantage: float, clip: float) -> tuple[Tensor, Tensor]:
    """Clipped objective of one plan's steps, to be minimised, and which steps [N] were clipped."""
    ratio = (log_p_N - old_N).exp()
    held = ratio.clamp(1 - clip, 1 + clip)
    gain = torch.minimum(ratio * advantage, held * advantage)
    return -gain.mean(), gain.detach() < (ratio * advantage).detach()


def divergence(mean_NKJ: Tensor, first_NKJ: Tensor, std_N: Tensor) -> Tensor:
    """KL divergence of Gaussians with one deviation: |mean - first|^2 / (2 deviation^2), mean over steps."""
    square = (mean_NKJ - first_NKJ).square().flatten(1).sum(1)
    return (square / (2 * std_N.square())).mean()


class Learner:
    """The model, its first weights, and the optimiser of the action stream."""

    def __init__(self, checkpoint: Checkpoint, config: RlConfig) -> None:
        self.config = config
        self.model: WorldActionModel = checkpoint.build_model()
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

    def update(self, samples: Sequence[tuple[Draw, float]], rng: np.random.Generator) -> Record:
        """Some epochs over plans with their advantages; returns statistics."""
        sums: dict[str, float] = {}
        passes = 0
        for _ in range(self.config.epochs):
            order = rng.permutation(len(samples))
            for start in range(0, len(order), self.config.batch):
                chosen = [samples[int(i)] for i in order[start : start + self.config.batch]]
                self.optimiser.zero_grad(set_to_none=True)
                for part in (chosen[i : i + TOGETHER] for i in range(0, len(chosen), TOGETHER)):
                    for name, value in self._backward(part, len(chosen)).items():
                        sums[name] = sums.get(name, 0.0) + value
                passes += len(chosen)
                norm = nn.utils.clip_grad_norm_(self.optimiser.param_groups[0]["params"], self.config.clip_norm)
                sums["gradient"] = sums.get("gradient", 0.0) + float(norm) * len(chosen)
                self.optimiser.step()
        return {name: value / max(1, passes) for name, value in sums.items()}

    def _backward(self, samples: Sequence[tuple[Draw, float]], count: int) -> dict[str, float]:
        """Gradients of some of the `count` plans of an optimiser step, in one pass; sums of their statistics."""
        config, draws = self.config, [draw for draw, _ in samples]
        mean_DNKJ = means(self._act, self._names, draws, config.noise_level)
        with torch.no_grad():
            first_DNKJ = means(self._first_act, self._names, draws, config.noise_level)
        total, sums = torch.zeros(()), dict.fromkeys(("loss", "kl", "clipped", "ratio_mean", "ratio_off"), 0.0)
        for (draw, advantage), mean, first in zip(samples, mean_DNKJ, first_DNKJ, strict=True):
            old, log_p = torch.from_numpy(draw.log_p_N), log_likelihoods(draw, mean, config.noise_level)
            loss, clipped = grpo_loss(log_p, old, advantage, config.clip)
            kl = divergence(mean, first, deviations(draw, config.noise_level))
            total = total + loss + config.kl_weight * kl
            ratio = (log_p - old).exp().detach()
            found = (loss.detach(), kl.detach(), clipped.float().mean(), ratio.mean(), (ratio - 1).abs().mean())
            sums = {name: sums[name] + float(value) for name, value in zip(sums, found, strict=True)}
        (total / count).backward()
        return sums


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

    def __init__(self, model: Path, spec: RobotSpec, config: RlConfig, out: Path) -> None:
        self.spec, self.config, self.out = spec, config, out
        self.start = load_checkpoint(model, spec)
        if not config.sampler_steps:
            config = self.config = dataclasses.replace(config, sampler_steps=self.start.config.action_steps)
        if config.sampler_steps < 2:
            raise ConfigError("train-rl", "needs two or more sampler steps: the last one has no noise",
                              got=config.sampler_steps, fix="add --sampler-steps 6")
        self.learner = Learner(self.start, config)
        self.frozen = frozen_fingerprint(self.learner.model, self.learner.trained)
        _require_same_run(out, self._identity())
        self.progress: Progress = load_state(out, self.learner.model, {}, self.learner.optimiser)
        self._prove()
        self._records = read_records(out, "iteration", self.progress.step)
        self.save()

    def iterate(self, workers: int) -> Record:
        """One iteration: every group's episodes, then the update. Returns what goes into metrics.jsonl."""
        config, step = self.config, self.progress.step
        rollouts = sorted(run_jobs(play_rollout, self._jobs(step), workers), key=lambda r: (r.case.seed, r.noise_seed))
        samples, returns = self._samples(rollouts)
        rng = np.random.default_rng([config.seed, step])
        statistics = self.learner.update(samples, rng) if samples else {}
        self.progress.step += 1
        self._prove()
        layouts = self._outcomes(rollouts)
        record = {
            "iteration": self.progress.step, "success": float(np.mean([r.success for r in rollouts])),
            "dense": float(np.mean([r.dense for r in rollouts])), "return": float(np.mean(returns)),
            "episodes": len(rollouts), "plans": sum(r.plans for r in rollouts), "samples": len(samples), **statistics,
            "mixed": sum(0 < successes < episodes for successes, episodes in layouts.values()), "layouts": layouts,
            "frozen": self.frozen[:16],
        }
        self._records.append(record)
        self.save()
        return record

    def _identity(self) -> Record:
        """What must stay the same for the run to be the same one."""
        config = self.config
        return {"model": self.start.weights_sha256[:16], "tasks": list(config.tasks), "setting": config.setting,
                "groups": config.groups, "group_size": config.group_size}

    def _outcomes(self, rollouts: Sequence[Rollout]) -> dict[str, list[int]]:
        """Successes and episodes by the layout's number."""
        found: dict[str, list[int]] = {}
        for rollout in rollouts:
            counts = found.setdefault(str(rollout.case.seed - FIRST_SEED), [0, 0])
            counts[0] += rollout.success
            counts[1] += 1
        return found

    def _jobs(self, step: int) -> list[RolloutJob]:
        config, folder = self.config, self.out / "checkpoint"
        jobs = []
        for number in next_layouts((record.get("layouts", {}) for record in self._records), config.groups):
            task = config.tasks[number % len(config.tasks)]
            case = Case(FIRST_SEED + number, "normal", task, config.setting, "train")
            for member in range(config.group_size):
                noise = ((config.seed * 1_000_003 + step) * 1_000_003 + number) * config.group_size + member
                jobs.append(RolloutJob(folder, self.spec, case, noise, config.sampler_steps, config.noise_level,
                                       config.plans_kept, config.temperature))
        return jobs

    def _samples(self, rollouts: Sequence[Rollout]) -> tuple[list[tuple[Draw, float]], list[float]]:
        """Every kept plan with its episode's advantage; groups of equal returns teach nothing and are left out."""
        samples, every = [], []
        for case in dict.fromkeys(rollout.case for rollout in rollouts):
            group = [rollout for rollout in rollouts if rollout.case == case]
            returns = [self.config.dense_weight * r.dense + self.config.success_weight * r.success for r in group]
            every += returns
            for rollout, advantage in zip(group, advantages(returns), strict=True):
                samples += [(draw, float(advantage)) for draw in rollout.draws if advantage]
        return samples, every

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
        stage_2 = {"iterations_done": self.progress.step, **dataclasses.asdict(self.config), **self._identity()}
        training = {**self.start.training, "stage_2": stage_2}
        weights = {name: value.detach().clone() for name, value in self.learner.model.state_dict().items()}
        save_checkpoint(self.out / "checkpoint", dataclasses.replace(self.start, model=weights, training=training))


def _require_same_run(out: Path, identity: Record) -> None:
    """Raises ConfigError where the run in `out` began with another model, or its groups are others."""
    path = out / "checkpoint" / CONFIG
    if (out / STATE).exists() and path.exists():
        run = json.loads(path.read_text(encoding="utf-8"))["training"].get("stage_2", {})
        refuse(out, {OPTIONS[name]: (run[name], value) for name, value in identity.items()
                     if run.get(name, value) != value})


def train_rl_command(args: argparse.Namespace) -> int:
    """`starry train-rl`: returns 0 when the run is saved."""
    if args.group_size < 2:
        raise ConfigError("starry train-rl", "needs groups of two or more", got=args.group_size)
    names = {field.name for field in dataclasses.fields(RlConfig)} - {"tasks", "clip_norm"}
    config = RlConfig(tasks=tuple(args.task or TASKS[:1]), **{name: getattr(args, name) for name in names})
    trainer = RlTrainer(model_dir(args.model), load_robot_spec(robot_file(args.robot)), config, args.out)
    while trainer.progress.step < config.iterations:
        record = trainer.iterate(args.workers)
        shown = ("success", "mixed", "dense", "return", "kl", "clipped", "ratio_off", "gradient")
        text = "  ".join(f"{name} {record[name]:.4f}" for name in shown if name in record)
        print(f"iteration {record['iteration']}/{config.iterations}  {text}", flush=True)
    print(f"{args.out / 'checkpoint'}: {len(trainer.learner.trained)} tensors trained, the others unchanged "
          f"(sha256 {trainer.frozen[:16]})")
    return 0
