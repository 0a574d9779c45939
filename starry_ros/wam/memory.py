"""How much memory a model needs, before anything is allocated; and refusal of what cannot fit.

Every buffer of the history has its full size from the start, so the plan holds for an episode of any length.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from starry_ros.errors import RuntimeUnavailable
from starry_ros.wam.config import WamConfig
from starry_ros.wam.kv_cache import SPECULATIVE_SLOTS
from starry_ros.wam.wan.config import WanConfig

GIB = 2**30
RESERVE = 0.9
"""Part of the free memory that a plan may use: the rest is for the engine and for what else runs."""


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes of the weights, of the history with what branches keep aside, and of everything a plan computes."""

    weights_bytes: int
    history_bytes: int
    aside_bytes: int
    work_bytes: int

    @property
    def total_bytes(self) -> int:
        """What must be free at the start."""
        return self.weights_bytes + self.history_bytes + self.aside_bytes + self.work_bytes

    def __str__(self) -> str:
        parts = {"weights": self.weights_bytes, "history": self.history_bytes, "branches": self.aside_bytes,
                 "work": self.work_bytes}
        listed = ", ".join(f"{name} {readable(size)}" for name, size in parts.items())
        return f"{readable(self.total_bytes)} ({listed})"


def plan_memory(config: WamConfig | WanConfig, parameters: int, weight_bytes: int = 4,
                cache_bytes: int | None = None) -> MemoryPlan:
    """The plan for weights and a history of the given bytes a number; the history has the weights' by default."""
    each = 2 * token_numbers(config) * (cache_bytes or weight_bytes)
    if isinstance(config, WanConfig):
        slots, slot = config.history_chunks, config.slot_tokens
        work = 2 * config.chunk_tokens + (config.chunk_tokens if config.value else 0) + 2 * config.chunk_actions
        hidden = max(config.feed_forward, 6 * config.width) * config.chunk_tokens
    else:
        slots, slot = config.history_slots, config.past_tokens + config.history_actions
        work = 3 * config.frame_tokens + config.text_tokens + config.chunk_steps
        hidden = 6 * config.video.feed_forward * config.frame_tokens
    kept = min(SPECULATIVE_SLOTS, slots)
    return MemoryPlan(parameters * weight_bytes, slots * slot * each, kept * slot * each,
                      work * each + 4 * hidden * weight_bytes)


def token_numbers(config: WamConfig | WanConfig) -> int:
    """Numbers in the keys of one token over all layers; its values take as many."""
    return config.layers * config.heads * config.head_dim


def free_bytes(device: str) -> int:
    """Memory that is free now on a device: a GPU's own, or the machine's."""
    if device.startswith("cuda"):
        free, _ = torch.cuda.mem_get_info(device)
        return int(free)
    for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
        if line.startswith("MemAvailable:"):
            return min(int(line.split()[1]) * 1024, _limit_bytes())
    raise RuntimeUnavailable("memory", "cannot be measured on this system", fix="run on Linux")


def require_memory(plan: MemoryPlan, device: str, what: str) -> None:
    """Raise RuntimeUnavailable unless the plan fits into what is free now, with a reserve."""
    free = free_bytes(device)
    if plan.total_bytes > RESERVE * free:
        raise RuntimeUnavailable(
            what, f"does not fit into the memory of {device}: it needs {plan}", got=f"{readable(free)} free",
            expected=f">= {readable(int(plan.total_bytes / RESERVE))}",
            fix="use a smaller preset, a shorter history, narrower weights, or a device with more memory",
        )


def readable(size: float) -> str:
    """Bytes with a unit."""
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.4g} {unit}"
        size /= 1024
    return f"{size:.4g} GiB"


def _limit_bytes() -> int:
    """What the control group of this process may still take; huge where there is no limit."""
    group = Path("/sys/fs/cgroup")
    try:
        limit = (group / "memory.max").read_text(encoding="ascii").strip()
        used = int((group / "memory.current").read_text(encoding="ascii"))
        return 2**62 if limit == "max" else max(0, int(limit) - used)
    except (OSError, ValueError):
        return 2**62
