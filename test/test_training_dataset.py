"""Demonstrations and batches: what a sample is made of, against a naive loop."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from training_kit import LATENT, SENTENCES, encode, load, write_episodes

from starry_ros.errors import DataError
from starry_ros.sim.tasks import named_colour
from starry_ros.training.dataset import (
    Batch,
    Demonstrations,
    Sampler,
    episode_parts,
    fair_weights,
    fresh_sentence,
    in_other_words,
    load_demonstrations,
    read_episodes,
    rivals,
)

LENGTHS = (9, 30, 14)
FUTURE, SLOTS, ACTIONS = 8, 4, 6


def change(path: Path, **more: np.ndarray) -> None:
    """Write an episode again with other arrays."""
    with np.load(path) as file:
        arrays = {**file, **more}
    np.savez(path, **arrays)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_episodes(tmp_path_factory.mktemp("data"), LENGTHS)


@pytest.fixture(scope="module")
def data(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Demonstrations:
    return load(folder, tmp_path_factory.mktemp("cache"))


def make_sampler(data: Demonstrations, seed: int = 0, **changes: float) -> Sampler:
    return Sampler(data, batch=7, future_steps=FUTURE, history_slots=SLOTS, history_actions=ACTIONS, seed=seed,
                   **changes)  # type: ignore[arg-type]


def frames_of(batch: Batch) -> list[int]:
    """The canvas and the latents of this data carry the number of their frame."""
    frames = batch.canvas_BHWC[:, 0, 0, 0].astype(int).tolist()
    assert batch.latents_BCYX[:, 0, 0, 0].astype(int).tolist() == frames
    return list(frames)


def episode_of(frame: int) -> tuple[int, int]:
    """First and last frame of the episode that a frame lies in."""
    first = 0
    for length in LENGTHS:
        if frame < first + length:
            return first, first + length - 1
        first += length
    raise AssertionError(frame)


def equal(a: Batch, b: Batch) -> bool:
    return all(np.array_equal(getattr(a, field.name), getattr(b, field.name)) for field in dataclasses.fields(Batch))


def test_all_episodes_are_joined_in_order(data: Demonstrations) -> None:
    assert len(data) == sum(LENGTHS)
    assert data.canvas_FHWC[:, 0, 0, 0].tolist() == list(range(sum(LENGTHS)))
    assert data.latents_FCYX.shape == (sum(LENGTHS), *LATENT)
    for frame in range(len(data)):
        assert (data.first_F[frame], data.last_F[frame]) == episode_of(frame)
        first, last = episode_of(frame)
        assert data.texts[data.text_F[frame]] == SENTENCES[2 * (frame - first) >= last - first + 1]
        assert (data.picking_F[frame], data.done_F[frame]) == (frame % 3 == 0, frame % 3 == 2)
        assert data.position_FJ[frame, 0] == pytest.approx(frame / 100)
        assert data.empty_closed_F[frame] == (frame % 5 == 0)
    assert data.events_FEV4.shape == (sum(LENGTHS), 2, 3, 4)


def test_a_batch_is_a_function_of_seed_step_and_rank(data: Demonstrations) -> None:
    first, second, other = make_sampler(data), make_sampler(data), make_sampler(data, seed=1)
    for step in (9, 0, 4):
        second.draw(step + 1)
        assert equal(first.draw(step), second.draw(step))
    batch = first.draw(5)
    assert not equal(batch, first.draw(6))
    assert not equal(batch, first.draw(5, rank=1))
    assert not equal(batch, other.draw(5))


def test_every_sample_is_what_a_naive_loop_takes_from_its_episode(data: Demonstrations) -> None:
    sampler = make_sampler(data, slow_past=0.0)
    seen = Counter[int]()
    for step in range(60):
        batch = sampler.draw(step)
        slots = batch.history_valid_BR.shape[1]
        seen[slots] += 1
        assert ACTIONS // 2 <= batch.spacing <= ACTIONS
        for b, frame in enumerate(frames_of(batch)):
            first, last = episode_of(frame)
            assert batch.future_BCYX[b, 0, 0, 0] == min(frame + FUTURE, last)
            assert batch.position_BJ[b, 0] == pytest.approx(frame / 100)
            np.testing.assert_array_equal(batch.plan_BKJ[b], data.plan_FKJ[frame])
            np.testing.assert_array_equal(batch.events_BEV4[b], data.events_FEV4[frame])
            assert batch.text_B[b] == data.text_F[frame]
            for slot in range(slots):
                past = frame - batch.spacing * (slot + 1)
                assert batch.history_valid_BR[b, slot] == float(past >= first)
                if past < first:
                    assert not batch.executed_valid_BRU[b, slot].any()
                    continue
                assert batch.history_canvas_BRHWC[b, slot, 0, 0, 0] == past
                assert batch.history_latents_BRCYX[b, slot, 0, 0, 0] == past
                for i in range(ACTIONS):
                    assert batch.executed_valid_BRU[b, slot, i] == float(i < batch.spacing)
                    if i < batch.spacing:  # the newest slot's actions end where the sample begins
                        assert batch.executed_BRUJ[b, slot, i, 0] == pytest.approx(1 + (past + 1 + i) / 100)
    assert set(seen) == {0, 1, 2, 3, 4}
    assert 15 <= seen[0] <= 45


def test_a_slow_past_is_one_in_which_the_arm_came_less_far(data: Demonstrations) -> None:
    sampler = make_sampler(data, slow_past=1.0, no_history=0.0)
    shares = []
    for step in range(30):
        batch = sampler.draw(step)
        for b, frame in enumerate(frames_of(batch)):
            first, _ = episode_of(frame)
            pasts = batch.history_canvas_BRHWC[b, :, 0, 0, 0].astype(int).tolist()
            valid = batch.history_valid_BR[b].astype(bool)
            assert all(frame >= near >= far for near, far in zip([frame, *pasts], pasts, strict=False))
            for slot, past in enumerate(pasts):
                assert max(first, frame - batch.spacing * (slot + 1)) <= past
                if valid[slot]:  # commands run from that frame no further than to the sample
                    commanded = (batch.executed_BRUJ[b, slot, : batch.spacing, 0] - 1) * 100
                    assert past - 1e-3 <= commanded.min()
                    assert commanded.max() <= past + batch.spacing + 1e-3
            if valid[0]:
                shares.append((frame - pasts[0]) / batch.spacing)
    assert min(shares) == 0.0
    assert 0.35 < float(np.mean(shares)) < 0.6


def test_a_sentence_is_fresh_for_five_steps_after_every_change() -> None:
    texts = ["a"] * 7 + ["b"] * 3 + ["a"] * 8
    changes = [0, 7, 10]
    wanted = [any(change <= i < change + 5 for change in changes) for i in range(len(texts))]
    assert fresh_sentence(texts).tolist() == wanted


def test_frames_are_drawn_as_often_as_their_weights_say(data: Demonstrations) -> None:
    sampler = make_sampler(data, empty_closed_weight=3.0, fresh_weight=2.0, done_weight=0.5, no_history=1.0)
    drawn = Counter(frame for step in range(500) for frame in frames_of(sampler.draw(step)))
    weight = [
        (3.0 if frame % 5 == 0 else 1.0) * (2.0 if data.fresh_F[frame] else 1.0) * (0.5 if frame % 3 == 2 else 1.0)
        for frame in range(len(data))
    ]
    counts = np.array([drawn[frame] for frame in range(len(data))])
    expected = 500 * 7 * np.array(weight) / sum(weight)
    assert np.abs(counts - expected).max() < 5 * np.sqrt(expected.max())
    assert float(((counts - expected) ** 2 / expected).sum()) < 100  # chi square, 52 degrees of freedom


def test_a_rival_sentence_names_another_object_and_counts_only_before_the_pick(data: Demonstrations) -> None:
    assert rivals((*SENTENCES, "wave")) == [[1], [0], []]
    assert rivals(("push the red button", "put the blue block away", "push the blue button")) == [[2], [], [0]]
    batches = [make_sampler(data, rival_share=1.0).draw(step) for step in range(20)]
    for batch in batches:
        for b, frame in enumerate(frames_of(batch)):
            assert batch.rival_B[b] != batch.text_B[b]
            assert batch.rivalled_B[b] == float(frame % 3 == 0)
    alone = make_sampler(dataclasses.replace(data, texts=("wave", "wave again"))).draw(0)
    np.testing.assert_array_equal(alone.rival_B, alone.text_B)
    assert not alone.rivalled_B.any()


def test_the_asked_share_of_samples_is_told_in_other_words_that_ask_for_the_same(data: Demonstrations) -> None:
    wider = in_other_words(data)
    assert wider.texts[: len(data.texts)] == data.texts
    plain, mixed = make_sampler(wider, rival_share=1.0), make_sampler(wider, rival_share=1.0, reworded=0.5)
    told = Counter[bool]()
    for step in range(60):
        usual, batch = plain.draw(step), mixed.draw(step)
        assert frames_of(batch) == frames_of(usual)
        np.testing.assert_array_equal(usual.text_B, data.text_F[frames_of(usual)])
        for own, text, rival in zip(usual.text_B, batch.text_B, batch.rival_B, strict=True):
            said, meant = wider.texts[text], wider.texts[own]
            assert named_colour(said) == named_colour(meant) != named_colour(wider.texts[rival])
            told[said != meant] += 1
    share = told[True] / told.total()
    options = len(wider.same_S[0])
    assert share == pytest.approx(0.5 * (options - 1) / options, abs=0.08)


def test_images_are_encoded_once_and_again_when_the_files_change(tmp_path: Path) -> None:
    folder = write_episodes(tmp_path / "data", (3, 4))
    calls: list[int] = []

    def counting(canvas_BHWC: np.ndarray) -> np.ndarray:
        calls.append(len(canvas_BHWC))
        return encode(canvas_BHWC)

    load_demonstrations(folder, tmp_path / "cache", counting)
    assert sum(calls) == 3 + 4 + 1  # and one frame, by which the latents of a cache are known
    calls.clear()
    assert len(load_demonstrations(folder, tmp_path / "cache", counting)) == 7
    assert calls == [1]
    calls.clear()
    (folder / "episodes" / "00001.npz").unlink()
    assert len(load_demonstrations(folder, tmp_path / "cache", counting)) == 3
    assert sum(calls) == 3 + 1
    calls.clear()
    load_demonstrations(folder, tmp_path / "cache", lambda canvas_BHWC: counting(canvas_BHWC) + 0.1)
    assert sum(calls) == 3 + 1, "another encoder gives other latents"


def test_a_cache_that_does_not_fit_on_the_disk_is_an_error_and_the_next_try_starts_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Writing to a mapped page without disk space would end the process without a word."""
    folder = write_episodes(tmp_path / "data", (3,))
    reserve = os.posix_fallocate

    def full(file: int, offset: int, length: int) -> None:
        if length > 10_000:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        reserve(file, offset, length)

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(DataError, match=r"canvas\.npy: does not fit: No space left.*free space"):
        load(folder, tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())
    monkeypatch.undo()
    assert len(load(folder, tmp_path / "cache")) == 3


def test_no_or_damaged_episodes_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds no episodes.*starry data generate"):
        load(tmp_path, tmp_path / "cache")
    folder = write_episodes(tmp_path / "data", (3,))
    path = folder / "episodes" / "00000.npz"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(DataError, match=r"00000\.npz.*cannot be read"):
        load(folder, tmp_path / "cache")


@pytest.mark.parametrize("name", ["position_TJ", "command_TJ", "plan_TKJ", "events_TEVF", "empty_closed_T", "stage_T",
                                  "text_T", "texts"])
def test_an_episode_that_lacks_an_array_is_named_with_it(name: str, tmp_path: Path) -> None:
    path = write_episodes(tmp_path / "data", (3, 4)) / "episodes" / "00001.npz"
    with np.load(path) as file:
        np.savez(path, **{key: value for key, value in file.items() if key != name})
    with pytest.raises(DataError, match=rf"00001\.npz: lacks {name}\. Fix: .*--video"):
        load(tmp_path / "data", tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


NAN_T = np.where(np.arange(30) == 4, np.nan, 0.1)


@pytest.mark.parametrize(("name", "array", "says"), [
    ("position_TJ", np.tile(NAN_T[:, None], 14), "non-finite values in position_TJ, first in frame 4"),
    ("plan_TKJ", np.tile(NAN_T[:, None, None], (1, 16, 14)), "non-finite values in plan_TKJ, first in frame 4"),
    ("velocity_TJ", np.tile(NAN_T[:, None], 14), "non-finite values in velocity_TJ, first in frame 4"),
    ("stage_T", np.full(30, 9), "a stage out of range in frame 0: 9"),
    ("text_T", np.full(30, 2), "a sentence index out of range in frame 0: 2"),
    ("command_TJ", np.zeros((30, 13)), "unlike numbers of joints"),
    ("plan_TKJ", np.zeros((30, 8, 14)), r"has plan_TKJ \[T, 8, 14\], the folder's first episode \[T, 16, 14\]"),
    ("canvas_THWC", np.zeros((30, 96, 80, 3), np.uint8), r"canvases \[30, 96, 80, 3\], expected \[30, 192, 160, 3\]"),
    ("canvas_THWC", np.zeros((29, 192, 160, 3), np.uint8), r"canvases \[29, 192, 160, 3\], expected \[30, 192"),
])
def test_an_episode_that_would_spoil_a_training_is_named_when_data_are_loaded(
    name: str, array: np.ndarray, says: str, tmp_path: Path
) -> None:
    change(write_episodes(tmp_path / "data") / "episodes" / "00001.npz", **{name: array})
    with pytest.raises(DataError, match=rf"00001\.npz: .*{says}.*starry data check"):
        load(tmp_path / "data", tmp_path / "cache")


def test_a_folder_of_images_alone_is_no_folder_of_demonstrations(tmp_path: Path) -> None:
    path = write_episodes(tmp_path / "data", (3,)) / "episodes" / "00000.npz"
    with np.load(path) as file:
        np.savez(path, canvas_THWC=file["canvas_THWC"])
    with pytest.raises(DataError, match=r"00000\.npz: lacks position_TJ, command_TJ, .*texts\. Fix: .*--video"):
        load(tmp_path / "data", tmp_path / "cache")
    with pytest.raises(DataError, match=r"00000\.npz: lacks command_TJ\."):
        list(read_episodes(tmp_path / "data", ("command_TJ",)))


def test_every_task_of_merged_data_is_drawn_equally_often(data: Demonstrations) -> None:
    small = np.arange(len(data)) < LENGTHS[0]
    number = small.astype(np.int64)
    sampler = make_sampler(dataclasses.replace(data, task_F=number, part_F=number), empty_closed_weight=1.0,
                           fresh_weight=1.0, done_weight=1.0)
    drawn = [frame for step in range(200) for frame in frames_of(sampler.draw(step))]
    assert np.mean(small[drawn]) == pytest.approx(0.5, abs=0.05)


def test_parts_of_a_task_share_its_draws_as_the_root_of_their_frames() -> None:
    task = np.array([0] * 100 + [1] * 900 + [1] * 100)
    part = np.array([4] * 100 + [2] * 900 + [0] * 100)
    weight = fair_weights(task, part)
    drawn = {name: weight[part == name].sum() / weight.sum() for name in (4, 2, 0)}
    assert drawn == pytest.approx({4: 0.5, 2: 0.5 * 30 / 40, 0: 0.5 * 10 / 40})


@pytest.mark.parametrize(("merged", "tasks", "parts"), [
    ([{"tasks": ["a"], "episodes": 2}, {"tasks": ["b"], "episodes": 1}, {"tasks": ["a"], "episodes": 1}],
     [0, 0, 1, 0], [0, 0, 1, 2]),
    ([{"tasks": ["a"], "episodes": 2}], [0, 0, 0, 0], [0, 0, 0, 0]),
    ([], [0, 0, 0, 0], [0, 0, 0, 0]),
])
def test_the_task_of_an_episode_is_that_of_the_folder_it_came_from(
    merged: list[dict[str, object]], tasks: list[int], parts: list[int], tmp_path: Path
) -> None:
    (tmp_path / "meta.json").write_text(json.dumps({"merged_from": merged}))
    assert [numbers.tolist() for numbers in episode_parts(tmp_path, 4)] == [tasks, parts]


def test_contacts_that_a_camera_does_not_see_are_drawn_unless_they_are_to_be_black(tmp_path):
    folder = write_episodes(tmp_path / "d", (4,))
    events = np.full((4, 2, 3, 5), 50.0)
    events[..., 3], events[..., 4] = 1.0, 0.0
    events[:, 0, 1, 4], events[:, 1, 2, 3] = 1.0, 0.0
    change(folder / "episodes" / "00000.npz", events_TEVF=events)
    drawn = load(folder, tmp_path / "cache").events_FEV4
    black = load_demonstrations(folder, tmp_path / "cache", encode, occluded="black").events_FEV4
    assert np.array_equal(drawn, events[..., :4])
    assert np.array_equal(black[..., :3], drawn[..., :3])
    assert np.array_equal(black[0, ..., 3], [[0, 1, 0], [0, 0, 0]])
