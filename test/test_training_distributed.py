"""Two processes that train together are one that averages the gradients of both their batches."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from process_kit import arguments, narrow_process, start
from safetensors.torch import load_file, save_file
from test_training_units import narrow_presets, write_data
from wam_kit import make_checkpoint

from starry_ros.training import early, train
from starry_ros.training.compute import PROCESSOR
from starry_ros.training.forward import losses
from starry_ros.training.loop import time_is_up
from starry_ros.training.losses import total
from starry_ros.training.train import Trainer
from starry_ros.wam.checkpoint import save_checkpoint

STEPS, EPISODES, LONGEST_S = 3, 5, 120.0
WORDS = ("--steps", str(STEPS), "--batch", "4", "--learning-rate", "0.2", "--prefix", "2", "--eval-every", "2",
         "--eval-episodes", str(EPISODES), "--precision", "fp32")


def work(rank: int, port: int, data: Path, out: Path, model: Path, notes: Path) -> None:
    """`starry train` as torchrun starts it; notes the weights, what was played, and who is told that time is up."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1",
                   "MASTER_PORT": str(port)}
    patch, seeds, run = narrow_process(), [], train.run

    def play(policy: object, cell: object, case: Any) -> Any:
        seeds.append(case.seed)
        return type("Result", (), {"success": case.seed % 2 == 0})()

    def watched(trainer: Trainer, *given: Any) -> None:
        run(trainer, *given)
        save_file(trainer.model.state_dict(), notes / f"{rank}.safetensors")
        flags = [time_is_up(elapsed_s, 1.0) for elapsed_s in (float(2 * rank), float(2 - 2 * rank))]
        note = {"seeds": seeds, "flags": flags, "world": dist.get_world_size()}
        (notes / f"{rank}.json").write_text(json.dumps(note))

    patch.setattr(early, "run_episode", play)
    patch.setattr(early, "Cell", lambda spec: object())
    patch.setattr(train, "run", watched)
    train.train_command(arguments(data, out, model, *WORDS))


def by_hand(trainer: Trainer) -> dict[str, torch.Tensor]:
    """The weights after the steps of both processes in this one, each with the mean of their gradients."""
    trainer.world = 2
    sampler, config = trainer.make_sampler(trainer.data, trainer.wam.prefix_steps), trainer.config
    weights = [value for value in trainer.model.parameters() if value.requires_grad]
    matrices, vectors = ([value for value in weights if (value.dim() > 1) == whole] for whole in (True, False))
    optimiser = torch.optim.AdamW([{"params": matrices, "weight_decay": config.weight_decay},
                                   {"params": vectors, "weight_decay": 0.0}])
    for step in range(STEPS):
        mean = [torch.zeros_like(value) for value in weights]
        for rank in range(2):
            noise = torch.Generator().manual_seed(hash((config.seed, step, rank)) & 0x7FFFFFFF)
            terms = losses(trainer.model, sampler.draw(step, rank), trainer.texts, trainer.stats, noise)
            found = torch.autograd.grad(total(terms, config.weights), weights, allow_unused=True)
            mean = [so_far if more is None else so_far + more / 2 for so_far, more in zip(mean, found, strict=True)]
        for value, gradient in zip(weights, mean, strict=True):
            value.grad = gradient
        torch.nn.utils.clip_grad_norm_(weights, config.clip_norm)
        for group in optimiser.param_groups:
            group["lr"] = config.rate(step)
        optimiser.step()
    return trainer.model.state_dict()


@pytest.mark.slow
def test_two_processes_train_as_one_with_the_mean_of_their_gradients(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    narrow_presets(monkeypatch)
    data, out, model = write_data(tmp_path / "data", tasks=["place_block_pad"]), tmp_path / "run", tmp_path / "model"
    save_checkpoint(model, make_checkpoint())
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = [start(work, rank, port, data, out, model, tmp_path) for rank in range(2)]
    alone = train._prepare(arguments(data, tmp_path / "alone", model, *WORDS), PROCESSOR)
    begun = {name: value.clone() for name, value in alone.model.state_dict().items()}
    wanted = by_hand(alone)
    for process in processes:
        process.join(LONGEST_S)
        process.kill()  # one that waits for the other for ever
        assert process.exitcode == 0
    zero, one = (load_file(tmp_path / f"{rank}.safetensors") for rank in range(2))
    assert all(torch.equal(one[name], value) for name, value in zero.items()), "both have the same weights"
    for name, value in wanted.items():
        torch.testing.assert_close(zero[name], value, rtol=0, atol=1e-6, msg=name)
    assert max(float((wanted[name] - value).abs().max()) for name, value in begun.items()) > 1e-3

    notes = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    assert [note["world"] for note in notes] == [2, 2]
    assert [note["flags"] for note in notes] == [[False, True]] * 2, "process 0 tells the time"
    played = [early.FIRST_SEED + i for i in range(EPISODES)]
    assert [note["seeds"] for note in notes] == [played[0::2], played[1::2]], "each plays its share"
    best = json.loads((out / "best.json").read_text())
    wins = sum(seed % 2 == 0 for seed in played)
    assert (best["step"], best["successes"], best["episodes"]) == (2, wins, EPISODES)
    assert json.loads((out / "metrics.jsonl").read_text())["by_task"] == {"place_block_pad": wins}
