"""Demonstrations in memory-mapped arrays, and batches drawn from them.

A batch is a pure function of (seed, step, rank), so training resumes to the step without storing a generator.

Shapes: F all frames, B batch, R history slots, U actions a slot, H x W canvas, K chunk steps, J joints, E events,
V views.
"""

from __future__ import annotations

import json
import os
import shutil
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from starry_ros.errors import DataError
from starry_ros.files import write_text
from starry_ros.sim.choices import COLOURS, STAGES
from starry_ros.sim.task import colours_in
from starry_ros.sim.tasks import named_first, same_meaning
from starry_ros.training.augment import NOTHING, Augment
from starry_ros.training.budgets import OCCLUDED
from starry_ros.training.form import problem_of, unlike
from starry_ros.training.prefix import Bender, committed, prefix_lengths
from starry_ros.training.scenes import PLAIN, Scenes, View
from starry_ros.training.summary import data_hash, read_meta
from starry_ros.types import F32, U8
from starry_ros.wam.gasam import Scene

I64 = NDArray[np.int64]
PICKING, DONE = STAGES.index("pick"), STAGES.index("done")
FRESH_STEPS = 5
BESIDE_IMAGES = ("position_TJ", "command_TJ", "plan_TKJ", "events_TEVF", "empty_closed_T", "stage_T")
"""What an episode has to hold of every frame beside its picture and its sentence."""
AUGMENT = 0x61756760
"""Tells the draws of augmentation from those of the batch, which it so leaves as they are."""
SAME_LATENT = 1e-3
"""Latents of one picture differ by more when another autoencoder made them, by less on another processor."""


@dataclass(frozen=True)
class Demonstrations:
    """All frames of a data folder, episode after episode.

    Of `texts`, S sentences, `same_S` names those that ask for the same, if any are to be mixed.
    """

    canvas_FHWC: U8
    latents_FCYX: F32
    position_FJ: F32
    command_FJ: F32
    plan_FKJ: F32
    events_FEV4: F32
    text_F: I64
    texts: tuple[str, ...]
    empty_closed_F: NDArray[np.bool_]
    picking_F: NDArray[np.bool_]
    done_F: NDArray[np.bool_]
    fresh_F: NDArray[np.bool_]
    first_F: I64
    last_F: I64
    task_F: I64
    part_F: I64
    scenes: Scenes | None = None
    same_S: tuple[tuple[int, ...], ...] = ()

    def __len__(self) -> int:
        return len(self.text_F)


@dataclass(frozen=True)
class Batch:
    """What one optimiser step sees. Slot 0 of the history is the newest; of a chunk, `known_B` steps are given,
    which led to the future frame where `happened_B` is 1."""

    canvas_BHWC: U8
    latents_BCYX: F32
    future_BCYX: F32
    position_BJ: F32
    plan_BKJ: F32
    known_B: I64
    happened_B: F32
    events_BEV4: F32
    text_B: I64
    rival_B: I64
    rivalled_B: F32
    history_canvas_BRHWC: U8
    history_latents_BRCYX: F32
    history_valid_BR: F32
    executed_BRUJ: F32
    executed_valid_BRU: F32
    spacing: int
    scene: Scene | None = None
    future_scene: Scene | None = None


def load_demonstrations(
    folder: Path, cache: Path, encode: Callable[[U8], F32], view: View = PLAIN, scenes: Scenes | None = None,
    occluded: str = OCCLUDED[0],
) -> Demonstrations:
    """Read every episode of `folder`; canvases and latents are cached as plain arrays and memory-mapped.

    `encode` maps canvases [n, H, W, 3] to latents [n, C, Y, X]; `view` makes the canvases of an episode; `scenes` go
    along with the frames; `occluded` is one of OCCLUDED. Raises DataError that names the file.
    """
    files = _files(folder)
    small: dict[str, list[NDArray[np.generic]]] = {}
    first: Mapping[str, NDArray[np.generic]] = {}
    lengths, texts = [], []
    for path in files:
        arrays = _read(path, (*BESIDE_IMAGES, "text_T", "texts"))
        first = first or arrays
        refuse(path, unlike(arrays, first))
        lengths.append(len(arrays["position_TJ"]))
        names = [str(text) for text in arrays["texts"]]
        texts.append([names[i] for i in arrays["text_T"]])
        for name in BESIDE_IMAGES:
            small.setdefault(name, []).append(arrays[name])
    canvas, latents = cached_images(files, lengths, cache, encode, view)
    vocabulary = tuple(sorted({text for episode in texts for text in episode}))
    index = {text: i for i, text in enumerate(vocabulary)}
    starts = np.concatenate([[0], np.cumsum(lengths)])
    joined = {name: np.concatenate(rows) for name, rows in small.items()}
    tasks, parts = episode_parts(folder, len(files))
    return Demonstrations(
        canvas_FHWC=canvas, latents_FCYX=latents,
        position_FJ=joined["position_TJ"].astype(np.float32), command_FJ=joined["command_TJ"].astype(np.float32),
        plan_FKJ=joined["plan_TKJ"].astype(np.float32), events_FEV4=_shown(joined["events_TEVF"], occluded),
        text_F=np.array([index[t] for episode in texts for t in episode], np.int64), texts=vocabulary,
        empty_closed_F=joined["empty_closed_T"].astype(bool), picking_F=joined["stage_T"] == PICKING,
        done_F=joined["stage_T"] == DONE,
        fresh_F=np.concatenate([fresh_sentence(episode) for episode in texts]),
        first_F=np.repeat(starts[:-1], lengths), last_F=np.repeat(starts[1:] - 1, lengths),
        task_F=np.repeat(tasks, lengths), part_F=np.repeat(parts, lengths), scenes=scenes,
    )


def _shown(events_FEV5: NDArray[np.generic], occluded: str) -> F32:
    """Labels [F, E, V, 4] as the map shows them."""
    events: F32 = events_FEV5.astype(np.float32)
    if occluded == "black":
        events[..., 3] *= events[..., 4]
    return events[..., :4]


def in_other_words(data: Demonstrations) -> Demonstrations:
    """The same data with everything that training can say for their sentences among the texts (`Sampler.reworded`)."""
    same = [same_meaning(text) or (text,) for text in data.texts]
    texts = (*data.texts, *sorted({text for some in same for text in some} - set(data.texts)))
    index = {text: i for i, text in enumerate(texts)}
    return replace(data, texts=texts, same_S=tuple(tuple(index[text] for text in some) for some in same))


def fresh_sentence(texts: list[str]) -> NDArray[np.bool_]:
    """Frames of an episode in which the sentence is new: there the picture does not tell yet what was asked for."""
    since, fresh = FRESH_STEPS, []
    for i, text in enumerate(texts):
        since = 0 if i == 0 or text != texts[i - 1] else since + 1
        fresh.append(since < FRESH_STEPS)
    return np.array(fresh, bool)


def episode_parts(folder: Path, episodes: int) -> tuple[I64, I64]:
    """For every episode, a number of its task and one of the folder it was merged from (`starry data merge`).

    All 0 where the folder was not merged, or holds other episodes than it notes.
    """
    parts = read_meta(folder).get("merged_from", [])
    counts = [int(part.get("episodes", 0)) for part in parts]
    if sum(counts) != episodes:
        return np.zeros(episodes, np.int64), np.zeros(episodes, np.int64)
    names = [str(part.get("tasks")) for part in parts]
    tasks = np.repeat([names.index(name) for name in names], counts).astype(np.int64)
    return tasks, np.repeat(np.arange(len(parts)), counts).astype(np.int64)


def fair_weights(task_F: I64, part_F: I64) -> NDArray[np.float64]:
    """Weights of frames by which every task is drawn equally often, and its parts as the root of their frames.

    By their frames alone, a hundred episodes of another look or of recoveries would drown among a thousand usual ones.
    """
    sizes = np.sqrt(np.bincount(part_F))
    parts, first = np.unique(part_F, return_index=True)
    totals = np.bincount(task_F[first], weights=sizes[parts])
    weights: NDArray[np.float64] = 1.0 / (sizes[part_F] * totals[task_F])
    return weights


def rivals(texts: tuple[str, ...]) -> list[list[int]]:
    """For every sentence, those that ask for the same with other objects: every colour in it is another one there.

    None where the first contact is the same whatever is named.
    """
    named = [colours_in(text) for text in texts]
    wording = [" ".join(word for word in text.lower().split() if word not in COLOURS) for text in texts]
    usable = [bool(colours) and named_first(text) for colours, text in zip(named, texts, strict=True)]
    return [
        [j for j, other in enumerate(named) if usable[i] and wording[j] == wording[i] and _all_differ(colours, other)]
        for i, colours in enumerate(named)
    ]


def _all_differ(some: Sequence[str], others: Sequence[str]) -> bool:
    return len(some) == len(others) and all(a != b for a, b in zip(some, others, strict=True))


def read_episodes(folder: Path, needed: Sequence[str]) -> Iterator[dict[str, NDArray[np.generic]]]:
    """Every episode's arrays but the images. Raises DataError that names the file, and what it lacks of `needed`."""
    return (_read(path, needed) for path in _files(folder))


def _files(folder: Path) -> list[Path]:
    files = sorted((folder / "episodes").glob("*.npz"))
    if not files:
        raise DataError(str(folder), "holds no episodes", fix="run `starry data generate` first")
    return files


def _read(path: Path, needed: Sequence[str]) -> dict[str, NDArray[np.generic]]:
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files if name != "canvas_THWC"}
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise DataError(str(path), f"cannot be read: {error}", fix="delete it and generate again") from error
    if missing := [name for name in needed if name not in arrays]:
        raise DataError(str(path), f"lacks {', '.join(missing)}",
                        fix="give demonstrations; episodes of images alone are for `starry train --video`")
    refuse(path, problem_of(arrays, needed))
    return arrays


def refuse(path: Path, problem: str) -> None:
    """DataError that names an episode where there is a problem: one value that is no number spoils all weights."""
    if problem:
        raise DataError(str(path), problem, fix="`starry data check` names all bad episodes; make them again, or "
                        "leave them out")


def cached_images(
    files: list[Path], lengths: list[int], cache: Path, encode: Callable[[U8], F32], view: View
) -> tuple[U8, F32]:
    """Memory-mapped canvases and latents, built once for these files, the view of them and the encoder."""
    first = _canvases(files[0], view)[:1]
    probe = encode(first)
    key: dict[str, Any] = {
        "files": [[path.name, path.stat().st_size] for path in files], "data_hash": data_hash(files[0].parent.parent),
        "latents": "float32",
    }
    if view.name != PLAIN.name:
        key["view"] = view.name
    stamp, canvas_path, latent_path = cache / "cache.json", cache / "canvas.npy", cache / "latents.npy"
    known = stamp.exists() and json.loads(stamp.read_text()) == key
    if not known or not np.allclose(np.load(latent_path, mmap_mode="r")[0], probe[0], atol=SAME_LATENT):
        cache.mkdir(parents=True, exist_ok=True)
        stamp.unlink(missing_ok=True)
        latent_shape = probe.shape[1:]
        total = sum(lengths)
        canvas = _mapped(canvas_path, np.uint8, (total, *first.shape[1:]))
        latents = _mapped(latent_path, np.float32, (total, *latent_shape))
        at = 0
        for path, length in zip(files, lengths, strict=True):
            canvas[at : at + length] = _canvases(path, view, (length, *first.shape[1:]))
            latents[at : at + length] = encode(canvas[at : at + length])
            at += length
        canvas.flush()
        latents.flush()
        write_text(stamp, json.dumps(key))
    return np.load(canvas_path, mmap_mode="r"), np.load(latent_path, mmap_mode="r")


def _canvases(path: Path, view: View, shape: tuple[int, ...] | None = None) -> U8:
    """What a view makes of an episode. DataError if that is no canvases, or of another shape."""
    canvas_THWC = view.canvases(path)
    refuse(path, problem_of({"canvas_THWC": canvas_THWC}, ()))
    if shape not in (None, canvas_THWC.shape):
        refuse(path, f"has canvases {list(canvas_THWC.shape)}, expected {list(shape or ())}")
    return canvas_THWC


def _mapped(path: Path, dtype: type[np.generic], shape: tuple[int, ...]) -> np.memmap[Any, Any]:
    """A new memory-mapped array whose disk space is there: writing a page that finds none kills the process."""
    array = np.lib.format.open_memmap(path, "w+", dtype, shape)
    try:
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    except OSError as error:
        got, needed = f"{shutil.disk_usage(path.parent).free >> 20} MiB", f"{array.nbytes >> 20} MiB"
        path.unlink()
        raise DataError(str(path), f"does not fit: {error.strerror}", got=got, expected=needed,
                        fix="free space, or give an --out on a larger disk") from error
    return array


class Sampler:
    """Draws batches: every task equally often, empty closed jaws more often, history of a random length and spacing
    (often none at all)."""

    def __init__(
        self, data: Demonstrations, *, batch: int, future_steps: int, history_slots: int, history_actions: int,
        seed: int, empty_closed_weight: float = 1.5, fresh_weight: float = 2.5, no_history: float = 0.5,
        done_weight: float = 0.15, rival_share: float = 0.25, slow_past: float = 0.5, prefix_steps: int = 0,
        reworded: float = 0.0, bender: Bender | None = None, augment: Augment = NOTHING,
    ) -> None:
        self.data, self.batch, self.seed = data, batch, seed
        self._future, self._slots, self._actions = future_steps, history_slots, history_actions
        self._bender, self._augment = bender, augment
        self._prefix_steps, self._reworded = prefix_steps, reworded if data.same_S else 0.0
        self._no_history, self._rival_share, self._slow_past = no_history, rival_share, slow_past
        # Finished episodes rest at home, exactly where new ones start: too many of them teach the arm to stay there.
        weight = np.where(data.empty_closed_F, empty_closed_weight, 1.0) * np.where(data.fresh_F, fresh_weight, 1.0)
        weight *= np.where(data.done_F, done_weight, 1.0)
        weight *= fair_weights(data.task_F, data.part_F)
        self._rivals = rivals(data.texts)
        self._cumulative = np.cumsum(weight) / weight.sum()

    def draw(self, step: int, rank: int = 0) -> Batch:
        """The batch of optimiser step `step` on process `rank`."""
        rng = np.random.default_rng([self.seed, step, rank])
        data = self.data
        frame = np.minimum(np.searchsorted(self._cumulative, rng.random(self.batch)), len(data) - 1)
        spacing = int(rng.integers(self._actions // 2, self._actions + 1))
        slots = 0 if rng.random() < self._no_history else int(rng.integers(1, self._slots + 1))
        past, valid, executed, executed_valid = self._history(frame, slots, spacing, self._paces(rng))
        text = self._told(frame, np.random.default_rng([self.seed, step, rank, len(data.texts)]))
        rival, rivalled = self._rival(frame, text, rng)
        then = np.minimum(frame + self._future, data.last_F[frame])
        last = data.last_F[frame]
        known = prefix_lengths(len(frame), self._prefix_steps, rng) if self._prefix_steps else np.zeros_like(frame)
        plan, happened = committed(data.command_FJ, data.plan_FKJ, frame, last, known), np.ones(len(frame), np.float32)
        if self._bender is not None:
            plan, happened = self._bender.bent(plan, known, rng)
        scenes = (None, None) if data.scenes is None else (data.scenes.at(frame), data.scenes.at(then))
        batch = Batch(
            canvas_BHWC=data.canvas_FHWC[frame], latents_BCYX=data.latents_FCYX[frame],
            future_BCYX=data.latents_FCYX[then],
            position_BJ=data.position_FJ[frame], plan_BKJ=plan, known_B=known, happened_B=happened,
            events_BEV4=data.events_FEV4[frame],
            text_B=text, rival_B=rival, rivalled_B=rivalled, history_canvas_BRHWC=data.canvas_FHWC[past],
            history_latents_BRCYX=data.latents_FCYX[past], history_valid_BR=valid,
            executed_BRUJ=executed, executed_valid_BRU=executed_valid, spacing=spacing,
            scene=scenes[0], future_scene=scenes[1],
        )
        return self._augment.of(batch, len(data.texts), np.random.default_rng([self.seed, step, rank, AUGMENT]))

    def _told(self, frame_B: I64, rng: np.random.Generator) -> I64:
        """The sentence of each frame, in some samples one that asks for the same in other words."""
        own_B = self.data.text_F[frame_B]
        if not self._reworded:
            return own_B
        other = [int(rng.choice(self.data.same_S[text])) for text in own_B]
        return np.where(rng.random(len(own_B)) < self._reworded, other, own_B)

    def _rival(self, frame_B: I64, text_B: I64, rng: np.random.Generator) -> tuple[I64, F32]:
        """A sentence naming another object for each frame, and 1 where the next contact would then be elsewhere.

        All 0 in most batches: a rival costs a pass of two streams, and a reminder now and then is enough.
        """
        choices = [self._rivals[text] for text in text_B]
        rival = [int(rng.choice(some)) if some else int(own) for some, own in zip(choices, text_B, strict=True)]
        applies = self.data.picking_F[frame_B] & np.array([bool(some) for some in choices])
        applies &= rng.random() < self._rival_share
        return np.array(rival, np.int64), applies.astype(np.float32)

    def _paces(self, rng: np.random.Generator) -> F32:
        """How fast each sample's past seems to have been [B]: 1 as recorded, down to 0 for an arm that stood still.

        A robot that is held up by latency, limits or a stop has a slower past than any demonstration. Without such
        samples, "I have not moved" comes to mean "I have finished", and the arm stays where it is.
        """
        slow = rng.random(self.batch) < self._slow_past
        return np.where(slow, rng.random(self.batch), 1.0).astype(np.float32)

    def _history(self, frame_B: I64, slots: int, spacing: int, pace_B: F32) -> tuple[I64, F32, F32, F32]:
        """Frames `spacing` steps apart before each frame, and the commands executed after each of them."""
        data = self.data
        ago = np.round(spacing * pace_B[:, None] * (1 + np.arange(slots))[None, :]).astype(np.int64)
        wanted = frame_B[:, None] - ago
        valid = wanted >= data.first_F[frame_B][:, None]
        past = np.where(valid, wanted, data.first_F[frame_B][:, None])
        ahead = np.round(pace_B[:, None] * (1 + np.arange(self._actions))).astype(np.int64)
        steps = past[:, :, None] + ahead[:, None, :]
        executed = data.command_FJ[np.minimum(steps, data.last_F[frame_B][:, None, None])]
        executed_valid = (np.arange(self._actions) < spacing)[None, None, :] & valid[:, :, None]
        return past, valid.astype(np.float32), executed, executed_valid.astype(np.float32)
