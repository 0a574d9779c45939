"""Stage-one training: `starry train`.

Resumable to the step, seeded, on one process or several (`torchrun --nproc-per-node N -m starry_ros.cli train ...`):
each process draws its own part of the batch, gradients are averaged. On a CPU two processes of one thread beat one
process of two; of several GPUs every process takes one.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from starry_ros.canvas.layout import t_pose_layout
from starry_ros.errors import ConfigError
from starry_ros.paths import robot_file
from starry_ros.robot_spec import RobotSpec, load_robot_spec
from starry_ros.sim.choices import SETTINGS
from starry_ros.training.augment import Augment
from starry_ros.training.budgets import TrainConfig
from starry_ros.training.compute import PROCESSOR, Compute, chosen_compute
from starry_ros.training.curves import Curves
from starry_ros.training.dataset import Demonstrations, Sampler
from starry_ros.training.early import EarlyEvaluation
from starry_ros.training.finite import clip_gradients
from starry_ros.training.forward import TextTable, expert_losses, losses
from starry_ros.training.loop import run
from starry_ros.training.losses import total
from starry_ros.training.prefix import Bender
from starry_ros.training.pseudo import pseudo_terms
from starry_ros.training.same_run import (
    BegunRun,
    begun_run,
    chosen_options,
    require_same_model,
    require_same_options,
    tell_changed_data,
)
from starry_ros.training.scenes import seen_layout
from starry_ros.training.start import first_weights, model_folder, require_start
from starry_ros.training.store import load_state, read_records, save_state, write_records
from starry_ros.training.summary import check_contract, data_hash, read_meta
from starry_ros.training.train_data import follow, given_autoencoder
from starry_ros.training.train_options import (
    chosen_config,
    chosen_data,
    chosen_video,
    freeze,
    run_or_model,
    start_parts,
)
from starry_ros.types import Record
from starry_ros.wam.autoencoder import Autoencoder
from starry_ros.wam.checkpoint import Checkpoint, contract_fields, load_checkpoint, save_checkpoint
from starry_ros.wam.config import WamConfig, preset
from starry_ros.wam.model import WorldActionModel, pool
from starry_ros.wam.normalise import NormStats, fit
from starry_ros.wam.text import MiniLmEncoder

PATIENCE_H = 12
"""How long processes wait for the one that encodes the data for all."""


@dataclass(frozen=True)
class VideoPart:
    """Pseudo-labelled frames beside the demonstrations: where to draw them, their sentences, and their weight."""

    sampler: Sampler
    texts: TextTable
    weight: float


class Trainer:
    """Model, optimiser, running average and data of one process."""

    def __init__(
        self, spec: RobotSpec, data: Demonstrations, autoencoder: Autoencoder, config: TrainConfig, out: Path,
        wam: WamConfig | None = None, compute: Compute = PROCESSOR,
    ) -> None:
        self.spec, self.data, self.autoencoder, self.config, self.out = spec, data, autoencoder, config, out
        self.compute = compute
        self.rank = dist.get_rank() if dist.is_initialized() else 0
        self.world = dist.get_world_size() if dist.is_initialized() else 1
        torch.manual_seed(config.seed)
        self.wam = wam or preset(config.preset, t_pose_layout(spec), len(spec.joints), spec.action.step_s)
        self.layout_hash = seen_layout(spec, self.wam.layout).layout_hash
        self.model = WorldActionModel(self.wam).to(compute.device)
        self.optimiser = torch.optim.AdamW(_parameter_groups(self.model, config.weight_decay), lr=config.learning_rate)
        self.stats = fit(data.plan_FKJ, data.position_FJ, spec.gripper_indices)
        self.texts = self.embed(data)
        self.set_text_statistics()
        self.average = {name: value.clone() for name, value in self.model.state_dict().items()}
        self.sampler = self.make_sampler(data, self.wam.prefix_steps)
        self.progress = load_state(out, self.model, self.average, self.optimiser)
        self.data_hash = ""
        self.options: Record = {}
        self._records = read_records(out, "step", self.progress.step)
        self._curves = Curves(out, self._records)
        self.video: VideoPart | None = None
        self.losses = losses

    def make_sampler(self, data: Demonstrations, prefix_steps: int = 0) -> Sampler:
        """This process's part of the batches of some data. Only where actions were commanded can some be given."""
        return Sampler(
            data, batch=self.config.batch // self.world, future_steps=self.wam.future_steps,
            history_slots=self.wam.history_slots, history_actions=self.wam.history_actions, seed=self.config.seed,
            prefix_steps=prefix_steps, reworded=self.config.reworded,
            bender=Bender(self.spec) if prefix_steps else None,
            augment=Augment(self.config.noisy_history, self.config.text_dropout),
        )

    def embed(self, data: Demonstrations) -> TextTable:
        """The sentences of some data, and last the one that says nothing."""
        return embed_texts(data.texts).with_silence().to(self.compute.device)

    def set_text_statistics(self) -> None:
        """Let the model know the mean and spread of the data's sentences."""
        self.model.set_text_statistics(pool(self.texts.tokens_STD[:-1], self.texts.mask_ST[:-1]))

    def step(self) -> dict[str, float]:
        """One optimiser step; returns the unweighted loss terms of this process's part of the batch.

        TrainingError, in every process and before any weight has changed, where one of them has lost its numbers.
        """
        step = self.progress.step
        noise = self.compute.noise(hash((self.config.seed, step, self.rank)) & 0x7FFFFFFF)
        with self.compute.here():
            loss, terms = self._pass(step, noise)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        mean = float(_average_gradients(self.model, self.world, loss.detach()))
        clip_gradients(self.model.parameters(), self.config.clip_norm, mean, f"{self.out}, step {step + 1}")
        for group in self.optimiser.param_groups:
            group["lr"] = self.config.rate(step)
        self.optimiser.step()
        follow(self.average, self.model, self.config.average_decay, step)
        self.progress.step += 1
        return {name: float(term.detach()) for name, term in terms.items()}

    def _pass(self, step: int, noise: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a step's batches, and its terms."""
        batch = self.sampler.draw(step, self.rank)
        with self.compute.passing():
            terms = self.losses(self.model, batch, self.texts, self.stats, noise)
            loss = total(terms, self.config.weights)
            if self.video is None:
                return loss, terms
            seen = losses(self.model, self.video.sampler.draw(step, self.rank), self.video.texts, self.stats, noise)
            seen = pseudo_terms(seen, self.video.weight)
            terms |= {f"pseudo_{name}": term for name, term in seen.items()}
            return loss + total(seen, self.config.weights), terms

    def save(self) -> None:
        """A checkpoint of the averaged weights to serve, and the state to resume from, which never lacks the other."""
        if self.rank == 0:
            save_checkpoint(self.out / "checkpoint", self.checkpoint())
            save_state(self.out, self.model, self.average, self.optimiser, self.progress)

    def note(self, record: Record) -> None:
        """Add a line to the run's metrics, without those of steps that were never saved and are done again."""
        if self.rank == 0:
            self._records.append(record)
            write_records(self.out, self._records)
            self._curves.add(record)

    def checkpoint(self) -> Checkpoint:
        """The averaged weights as a model that can be served."""
        return Checkpoint(
            config=self.wam, stats=self.stats, autoencoder=self.autoencoder,
            model={name: value.cpu() for name, value in self.average.items()},
            contract_hash=self.spec.content_hash, layout_hash=self.layout_hash,
            contract=contract_fields(self.spec),
            training={"steps_done": self.progress.step, "data_hash": self.data_hash,
                      **dataclasses.asdict(self.config), **self.options},
        )


def _parameter_groups(model: torch.nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Matrices are decayed, vectors are not."""
    trained = [p for p in model.parameters() if p.requires_grad]
    matrices = [p for p in trained if p.dim() > 1]
    vectors = [p for p in trained if p.dim() <= 1]
    return [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]


def _average_gradients(model: torch.nn.Module, world: int, loss: Tensor) -> Tensor:
    """Give every process the mean of all gradients; returns that of the losses, so that all judge the same number."""
    if world == 1:
        return loss
    trained = [p for p in model.parameters() if p.requires_grad]
    gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in trained]
    flat = torch.cat([*(g.flatten() for g in gradients), loss.reshape(1)])
    dist.all_reduce(flat)
    at = 0
    for parameter in trained:
        size = parameter.numel()
        parameter.grad = flat[at : at + size].view_as(parameter) / world
        at += size
    return flat[-1] / world


def embed_texts(texts: tuple[str, ...]) -> TextTable:
    """Every sentence of the data through the text encoder, once."""
    encoder = MiniLmEncoder()
    embedded = [encoder.encode(text) for text in texts]
    tokens = torch.from_numpy(np.stack([e.tokens_TD for e in embedded])).float()
    mask = torch.from_numpy(np.stack([e.mask_T for e in embedded])).float()
    return TextTable(tokens, mask)


def train_command(args: argparse.Namespace) -> int:
    """`starry train`: returns 0 when the run is saved."""
    several = "WORLD_SIZE" in os.environ and int(os.environ["WORLD_SIZE"]) > 1
    compute = chosen_compute(args.device, args.precision)
    if several:
        dist.init_process_group(compute.backend, timeout=timedelta(hours=PATIENCE_H))
    try:
        trainer = _prepare(args, compute)
        early = EarlyEvaluation(trainer.spec, _tasks(args.data), args.eval_every, args.eval_episodes, args.out,
                                _settings(args.data))
        run(trainer, args.save_every, None if args.minutes is None else args.minutes * 60, early)
    finally:
        if several:
            dist.destroy_process_group()
    return 0


def _prepare(args: argparse.Namespace, compute: Compute) -> Trainer:
    spec = load_robot_spec(robot_file(args.robot))
    check_contract(args.data, spec)
    options = chosen_options(args)
    args.init, args.autoencoder = run_or_model(args.init), run_or_model(args.autoencoder)
    autoencoder = given_autoencoder(args.autoencoder)
    rank = dist.get_rank() if dist.is_initialized() else 0
    wam = chosen_config(args, spec)
    compute = _exact_geometry(compute, wam, args.precision)
    begun = begun_run(args.out)
    if begun is not None:
        require_same_model(args.out, begun, wam, spec, autoencoder)
        require_same_options(args.out, begun, args, options)
    elif args.init is not None:
        require_start(args.init, args.autoencoder, autoencoder)
    if rank == 0:
        if begun is not None:
            tell_changed_data(args.out, begun, args.data)
        args.out.mkdir(parents=True, exist_ok=True)
        data = chosen_data(args, spec, wam, autoencoder)
        if args.video is not None:
            chosen_video(args, spec, wam, autoencoder, data)
    if dist.is_initialized():
        dist.barrier()
    data = chosen_data(args, spec, wam, autoencoder)
    config = TrainConfig(preset=args.preset, steps=args.steps, batch=args.batch, learning_rate=args.learning_rate,
                         seed=args.seed, reworded=args.reworded, noisy_history=args.noisy_history,
                         text_dropout=args.text_dropout)
    world = dist.get_world_size() if dist.is_initialized() else 1
    if config.batch % world:
        raise ConfigError("--batch", "is not a multiple of the processes", got=config.batch, expected=f"n * {world}")
    trainer = Trainer(spec, data, autoencoder, config, args.out, wam, compute)
    trainer.data_hash, trainer.options = data_hash(args.data), options
    if args.video is not None:
        video = chosen_video(args, spec, wam, autoencoder, data)
        trainer.video = VideoPart(trainer.make_sampler(video), trainer.embed(video), args.video_weight)
    if trainer.progress.step == 0:
        _start_from(trainer, args)
    if args.only_geometry:
        _keep_all_but_geometry(trainer, args)
    else:
        trainer.stats = _units(trainer, args, begun)
    return trainer


def _exact_geometry(compute: Compute, wam: WamConfig, precision: str) -> Compute:
    """Points in space, and the weights that follow from them, are computed as in serving: in float32."""
    if wam.geometry is None or not compute.mixed:
        return compute
    if precision == "bf16":
        raise ConfigError("--precision", "is too coarse for points in space", got=precision, expected="fp32 or auto",
                          fix="choose fp32, or train without --geometry")
    return dataclasses.replace(compute, mixed=False)


def _units(trainer: Trainer, args: argparse.Namespace, begun: BegunRun | None) -> NormStats:
    """Those that the weights know, of the run itself or of --init; those of the data where these do not fit."""
    if begun is not None:
        return begun.stats
    if args.init is None:
        return trainer.stats
    place = model_folder(args.init)
    kept = trainer.stats if place is None else load_checkpoint(place).stats
    if kept.serves(trainer.stats):
        return kept
    print(f"the data move otherwise than those of {args.init}: new units, from the data", flush=True)
    return trainer.stats


def _tasks(data: Path) -> tuple[str, ...]:
    """The simulator's tasks that the data show; none for recordings of other things, which nothing here can play."""
    return tuple(read_meta(data).get("tasks", []))


def _settings(data: Path) -> tuple[str, ...]:
    """The simulator's settings that the data were made in; easy where nobody noted one."""
    noted = str(read_meta(data).get("setting", "")).split(",")
    return tuple(setting for setting in SETTINGS if setting in noted) or SETTINGS[:1]


def _start_from(trainer: Trainer, args: argparse.Namespace) -> None:
    """Begin with the weights of --init, of any robot; tensors that it lacks keep their initial values.

    Its mean and spread of sentences stay: the weights read sentences in these units, whatever the data say.
    """
    if args.init is not None:
        try:
            missing, unexpected = trainer.model.load_state_dict(first_weights(args.init), strict=False)
        except RuntimeError as error:
            raise ConfigError("--init", f"is of another shape: {error}", fix="train from scratch") from error
        if unexpected:
            raise ConfigError("--init", "has tensors that this model lacks", got=unexpected, fix="train from scratch")
        print(f"starts from {args.init}; new tensors: {missing}", flush=True)
    start_parts(args, trainer.model)
    trainer.average = {name: value.clone() for name, value in trainer.model.state_dict().items()}


def _keep_all_but_geometry(trainer: Trainer, args: argparse.Namespace) -> None:
    """The geometry expert learns alone; the units of actions stay those that the frozen weights know."""
    freeze(args, trainer.model)
    kept = load_checkpoint(model_folder(args.init) or args.init)
    if dataclasses.replace(trainer.wam, geometry=None) != dataclasses.replace(kept.config, geometry=None):
        raise ConfigError("--only-geometry", "the options describe another model than that of --init",
                          got=trainer.wam, expected=kept.config, fix="give the options that it was trained with")
    trainer.stats, trainer.losses = kept.stats, expert_losses
