"""The rows of `starry bench history` and of `starry bench model --preset`, on shapes that take no time."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from wam_kit import make_checkpoint

from starry_ros.bench import history, wan
from starry_ros.bench.history import SMALL, flatness_rows, reference_rows
from starry_ros.checks import BARS, judged
from starry_ros.errors import ConfigError, RuntimeUnavailable
from starry_ros.report import BENCH_COLUMNS, bench_row
from starry_ros.wam.config import StreamConfig
from starry_ros.wam.wan.vae import VaeConfig

MINIATURE = dataclasses.replace(SMALL, canvas_height_px=64, canvas_width_px=64, history_chunks=3, layers=2,
                                feed_forward=64, text_tokens=64, text_width=64)


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def test_the_public_way_gives_the_same_numbers_and_both_are_timed() -> None:
    rows = {row["name"]: row for row in reference_rows(MINIATURE, 2)}
    assert rows["history/reference_difference"]["value"] < 1e-5
    row = rows["history/reference_way"]
    assert row["ratio"] == pytest.approx(row["baseline"] / row["value"])


def test_an_episode_is_timed_where_it_is_young_and_where_it_is_old(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "OLD", 12)
    (row,) = flatness_rows(make_checkpoint(), None)
    assert row["name"] == "history/torch/chunk_64"
    assert row["cost_ratio"] > 0
    assert row["bytes"] > 0


def test_every_row_is_held_to_its_own_bar_also_where_two_bars_read_alike() -> None:
    for name in ("torch", "onnxruntime"):
        for ratio in (1.0, 1.2):
            row = judged(bench_row(f"history/{name}/chunk_64", 1.0, "ms", 1.0, cost_ratio=ratio))
            assert (row["bar"], row["passed"]) == ("cost_ratio <= 1.1", ratio < 1.1)


def test_a_chunk_is_measured_by_stage_against_the_roofline_of_the_same_run() -> None:
    config = dataclasses.replace(MINIATURE, value=StreamConfig(32, 48), action=StreamConfig(32, 48))
    rows = {row["name"]: row for row in wan.measure(config, "cpu", torch.float32, 2, VaeConfig(4, 4, 4, (1, 1, 1, 1)))}
    assert set(rows) == {f"wan/{name}" for name in (
        "bandwidth", "matrix_rate", "append", "video_step", "value_step", "action_step", "chunk", "encode", "decode")}
    assert all(set(BENCH_COLUMNS) <= set(row) and row["value"] > 0 for row in rows.values())
    steps = {"append": 1, "video_step": 3, "value_step": 3, "action_step": 10}
    assert {name: rows[f"wan/{name}"]["times_a_chunk"] for name in steps} == steps
    bound = sum(times * rows[f"wan/{name}"]["baseline"] for name, times in steps.items())
    assert rows["wan/chunk"]["baseline"] == pytest.approx(bound)
    assert rows["wan/chunk"]["over_roofline"] is None  # the bar is for GPUs
    # a video pass by hand: projections and feed-forward over all tokens, attention over the field, text attention
    c, layers, width = config, config.layers, config.width
    ctx = (c.history_chunks + 2) * c.chunk_tokens + (c.history_chunks + 1) * c.chunk_actions
    each = 4 * width**2 + 2 * width**2 + 2 * width * c.feed_forward
    flops = 2 * c.chunk_tokens * (layers * each + 2 * width * c.token_width) + 4 * layers * c.chunk_tokens * width * (
        ctx + c.text_tokens) + 2 * (256 * width + width**2 + 6 * width**2)
    assert rows["wan/video_step"]["gflop"] * 1e9 == pytest.approx(flops, rel=0.01)


def test_what_cannot_be_measured_here_says_so() -> None:
    with pytest.raises(ConfigError, match="not of Wan's size"):
        wan.run("tiny", "cpu")
    if not torch.cuda.is_available():
        with pytest.raises(RuntimeUnavailable, match="not on this machine"):
            wan.run("wan2.2-5b", "cuda")
    assert {bar.pattern for bar in BARS} >= {"history/reference_way", "wan/chunk", "history/torch/chunk_64"}
