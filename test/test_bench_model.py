"""The rows of `starry bench model`."""

from __future__ import annotations

import torch
from wam_kit import make_checkpoint

from starry_ros.bench.model import STAGES, measure
from starry_ros.report import BENCH_COLUMNS


def test_every_stage_has_a_row_and_the_cache_saves_time() -> None:
    threads = torch.get_num_threads()
    rows = measure(make_checkpoint(), None, seconds=0.0)
    assert torch.get_num_threads() == threads
    assert all(set(BENCH_COLUMNS) <= set(row) for row in rows)
    found = {row["name"]: row for row in rows}
    assert set(found) == {f"model/torch/{stage}" for stage in ("plan", *STAGES.values(), "history_cache")}
    parts = sum(found[f"model/torch/{stage}"]["value"] for stage in ("observe", "imagine", "value", "act"))
    assert 0 < parts < 1.5 * found["model/torch/plan"]["value"]
    assert all(row["value"] > 0 for row in rows)
    assert found["model/torch/history_cache"]["ratio"] > 1.0
    assert found["model/torch/plan"]["baseline"] is None
