"""Where a training computes: what this machine lacks is refused, and mixed precision stays near float32."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import pytest
import torch
from wam_kit import LAYOUT

from starry_ros.errors import ConfigError
from starry_ros.training import compute
from starry_ros.training.compute import PROCESSOR, Compute, chosen_compute
from starry_ros.training.train import _exact_geometry
from starry_ros.wam.config import tiny
from starry_ros.wam.options import GeometryConfig


def with_gpus(monkeypatch: pytest.MonkeyPatch, count: int, *, bfloat16: bool = True) -> list[torch.device]:
    """PyTorch as on a machine with GPUs; returns those that were made the current one."""
    current: list[torch.device] = []
    cuda = SimpleNamespace(
        is_available=lambda: count > 0, device_count=lambda: count, set_device=current.append,
        is_bf16_supported=lambda including_emulation: bfloat16 and not including_emulation,
    )
    monkeypatch.setattr(compute, "torch", SimpleNamespace(cuda=cuda, device=torch.device))
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    return current


def test_without_a_gpu_auto_is_the_processor_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    with_gpus(monkeypatch, 0)
    assert chosen_compute("auto", "auto") == chosen_compute("cpu", "auto") == PROCESSOR
    assert chosen_compute("cpu", "bf16") == Compute(torch.device("cpu"), mixed=True)
    assert PROCESSOR.backend == "gloo"


def test_with_a_gpu_auto_is_the_gpu_in_mixed_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    current = with_gpus(monkeypatch, 2)
    first, second = torch.device("cuda", 0), torch.device("cuda", 1)
    assert chosen_compute("auto", "auto") == Compute(first, mixed=True)
    assert chosen_compute("cuda", "fp32") == Compute(first)
    assert chosen_compute("cuda:1", "bf16") == Compute(second, mixed=True)
    assert chosen_compute("cpu", "auto") == PROCESSOR
    assert current == [first, first, second]
    assert Compute(first).backend == "cpu:gloo,cuda:nccl"


def test_every_process_of_torchrun_takes_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    with_gpus(monkeypatch, 2)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert chosen_compute("cuda").device == chosen_compute("auto").device == torch.device("cuda", 1)
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(ConfigError, match="fewer processes"):
        chosen_compute("auto")


@pytest.mark.parametrize(("device", "gpus", "fix"), [
    ("cuda", 0, "install PyTorch for CUDA"), ("cuda:2", 2, "expected cuda:0 to cuda:1"), ("tpu", 2, "expected auto"),
    ("cuda:first", 2, "expected auto"), ("", 2, "expected auto"),
])
def test_a_device_that_is_not_there_is_refused(
    device: str, gpus: int, fix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_gpus(monkeypatch, gpus)
    with pytest.raises(ConfigError, match=fix):
        chosen_compute(device)


def test_processes_of_torchrun_do_not_share_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    with_gpus(monkeypatch, 2)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="one GPU for several processes"):
        chosen_compute("cuda:0")


def test_points_in_space_are_computed_in_float32() -> None:
    plain = tiny(LAYOUT, 14)
    spatial, mixed = dataclasses.replace(plain, geometry=GeometryConfig()), Compute(torch.device("cuda", 0), mixed=True)
    assert _exact_geometry(mixed, plain, "auto") == mixed
    assert _exact_geometry(mixed, spatial, "auto") == Compute(torch.device("cuda", 0))
    with pytest.raises(ConfigError, match="too coarse"):
        _exact_geometry(mixed, spatial, "bf16")


def test_an_old_gpu_trains_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    with_gpus(monkeypatch, 1, bfloat16=False)
    assert not chosen_compute("auto", "auto").mixed
    with pytest.raises(ConfigError, match="no bfloat16"):
        chosen_compute("auto", "bf16")


def test_the_processor_leaves_everything_as_it_is() -> None:
    with PROCESSOR.here(), PROCESSOR.passing():
        assert torch.zeros(2).device.type == "cpu"
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32


def test_mixed_precision_multiplies_in_bfloat16() -> None:
    with Compute(torch.device("cpu"), mixed=True).passing():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16
