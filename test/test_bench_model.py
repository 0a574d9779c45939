"""The rows of `starry bench model`."""

from __future__ import annotations

import pytest
import torch
from wam_kit import make_checkpoint

from starry_ros.bench.model import STAGES, measure
from starry_ros.report import BENCH_COLUMNS


def test_every_stage_has_a_row_and_the_cache_is_held_against_none() -> None:
    threads = torch.get_num_threads()
    rows = measure(make_checkpoint(), None, seconds=0.0)
    assert torch.get_num_threads() == threads
    assert all(set(BENCH_COLUMNS) <= set(row) for row in rows)
    found = {row["name"]: row for row in rows}
    assert set(found) == {f"model/torch/{stage}" for stage in ("plan", *STAGES.values(), "history_cache")}
    assert all(row["value"] > 0 for row in rows)
    cached = found["model/torch/history_cache"]
    assert cached["ratio"] == pytest.approx(cached["baseline"] / cached["value"])
    assert found["model/torch/plan"]["baseline"] is None
