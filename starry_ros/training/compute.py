"""Where a training computes, and in which numbers.

Data, saved states and checkpoints stay on the processor whatever the device, so that a run goes on elsewhere.
"""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch

from starry_ros.errors import ConfigError


@dataclass(frozen=True)
class Compute:
    """A device, and whether passes run in mixed precision: matrices in bfloat16; weights and optimiser in float32."""

    device: torch.device
    mixed: bool = False

    @property
    def backend(self) -> str:
        """How several processes exchange gradients, and flags on the processor."""
        return "gloo" if self.device.type == "cpu" else f"cpu:gloo,{self.device.type}:nccl"

    def here(self) -> AbstractContextManager[object]:
        """New tensors, also those of NumPy's arrays (`torch.as_tensor`), are on the device."""
        return nullcontext() if self.device.type == "cpu" else self.device

    def passing(self) -> AbstractContextManager[object]:
        """The same for a forward pass, in mixed precision where that is chosen."""
        return torch.autocast(self.device.type, torch.bfloat16) if self.mixed else nullcontext()

    def noise(self, seed: int) -> torch.Generator:
        """A source of noise on the device."""
        return torch.Generator(self.device).manual_seed(seed)


PROCESSOR = Compute(torch.device("cpu"))


def chosen_compute(device: str, precision: str = "fp32") -> Compute:
    """What `--device` and `--precision` name. Raises ConfigError where this machine lacks it.

    `auto` is the GPU where PyTorch sees one, and mixed precision on GPUs that have it. Processes of `torchrun` take a
    GPU each.
    """
    if ":" in device and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError("--device", "is one GPU for several processes", got=device, expected="auto, cpu or cuda",
                          fix="name no number: every process takes a GPU of its own")
    found = _device(device)
    if found.type == "cpu":
        return Compute(found, precision == "bf16")
    torch.cuda.set_device(found)
    able = torch.cuda.is_bf16_supported(including_emulation=False)
    if precision == "bf16" and not able:
        raise ConfigError("--precision", "this GPU has no bfloat16", got=precision, fix="choose fp32")
    return Compute(found, precision != "fp32" and able)


def _device(name: str) -> torch.device:
    """The device of that name."""
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "cpu" or (name == "auto" and not gpus):
        return torch.device("cpu")
    kind, _, number = name.partition(":")
    if name != "auto" and (kind != "cuda" or (number and not number.isdecimal())):
        raise ConfigError("--device", "is unknown", got=name, expected="auto, cpu, cuda or cuda:N")
    index = int(number or os.environ.get("LOCAL_RANK", "0"))
    if index >= gpus:
        raise ConfigError("--device", f"PyTorch sees {gpus} GPUs", got=f"cuda:{index}",
                          expected=f"cuda:0 to cuda:{gpus - 1}" if gpus else "cpu",
                          fix="start fewer processes, choose cpu, or install PyTorch for CUDA")
    return torch.device("cuda", index)
