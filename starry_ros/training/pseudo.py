"""Actions for videos that have none (StaMo's co-training): from motions between compact states.

Two linear probes are fitted on the robot's own demonstrations: state -> joint positions, and motion over k steps ->
displacement of the joints, for every k of a chunk. A video's frames then get positions and plans, and train the
imagined frame and the actions, at a weight of their own. Nothing is known of its contacts: the value map learns
nothing from it.

Shapes: F frames, K chunk steps, J joints, S D numbers of a state.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
from torch import Tensor

from starry_ros.errors import DataError
from starry_ros.training.dataset import Demonstrations, cached_images, refuse
from starry_ros.training.form import problem_of
from starry_ros.training.probe_states import LinearProbe, choose_linear
from starry_ros.training.scenes import PLAIN, View, read_arrays
from starry_ros.training.train_state_tokens import encode_frames
from starry_ros.types import F32, F64, U8
from starry_ros.wam.config import WamConfig
from starry_ros.wam.state_tokens import StateAutoencoder

TERMS = ("video", "action")
"""Loss terms that pseudo-labelled frames contribute to."""
NO_SENTENCE = "do what the video shows"
FEWEST, LARGEST_FIT = 5, 20000
SEED = 0


@dataclasses.dataclass(frozen=True)
class Labeller:
    """Probes of one robot: `position` of a state, `displacement[k - 1]` of a motion over k steps."""

    states: StateAutoencoder
    position: LinearProbe
    displacement: tuple[LinearProbe, ...]

    def label(self, video: Demonstrations) -> Demonstrations:
        """The same frames with positions, commands and plans read from the pictures."""
        frames = np.arange(len(video))
        state = encode_frames(self.states, video, frames)
        position = self.position(state)
        moves = [np.zeros_like(position)]
        for k, probe in enumerate(self.displacement, 1):
            moves.append(probe(state[np.minimum(frames + k, video.last_F)] - state))
        left = video.last_F - frames  # an episode's last frame stays as it is
        ahead = np.minimum(np.arange(1, len(moves))[None, :], left[:, None])
        plan = position[:, None] + np.stack(moves)[ahead, frames[:, None]]
        return dataclasses.replace(
            video, position_FJ=position.astype(np.float32), plan_FKJ=plan.astype(np.float32),
            command_FJ=plan[:, 0].astype(np.float32))


def fit_labeller(states: StateAutoencoder, robot: Demonstrations, chunk_steps: int) -> Labeller:
    """Fit on demonstrations with actions. Raises DataError where the episodes are shorter than a chunk."""
    state = encode_frames(states, robot, np.arange(len(robot)))
    position = choose_linear(*_some(state, robot.position_FJ.astype(np.float64)))
    probes = []
    for k in range(1, chunk_steps + 1):
        start = np.flatnonzero(np.arange(len(robot)) + k <= robot.last_F)
        if len(start) < FEWEST:
            raise DataError("demonstrations", f"too few frames lie {k} steps before the end of their episode",
                            got=len(start), expected=f">= {FEWEST}", fix="give longer episodes")
        moved = (robot.position_FJ[start + k] - robot.position_FJ[start]).astype(np.float64)
        probes.append(choose_linear(*_some(state[start + k] - state[start], moved)))
    return Labeller(states, position, tuple(probes))


def _some(x_nD: F32, y_nY: F64) -> tuple[F32, F64]:
    """At most LARGEST_FIT pairs, chosen at random, in random order."""
    chosen = np.random.default_rng(SEED).permutation(len(x_nD))[:LARGEST_FIT]
    return x_nD[chosen], y_nY[chosen]


def pseudo_terms(terms: dict[str, Tensor], weight: float) -> dict[str, Tensor]:
    """The terms that a pseudo-labelled batch may contribute, weighted."""
    return {name: weight * term for name, term in terms.items() if name in TERMS}


def load_video(folder: Path, cache: Path, encode: Callable[[U8], F32], config: WamConfig, view: View = PLAIN
               ) -> Demonstrations:
    """Episodes of images alone: `canvas_THWC` and, where there are any, `texts` and `text_T`. Joints are zero.

    Raises DataError that names the file.
    """
    files = sorted((folder / "episodes").glob("*.npz"))
    if not files:
        raise DataError(str(folder), "holds no episodes", fix="give a folder with episodes/*.npz")
    texts = [_sentences(path) for path in files]
    lengths = [len(some) for some in texts]
    canvas, latents = cached_images(files, lengths, cache, encode, view)
    vocabulary = tuple(sorted({text for some in texts for text in some}))
    starts, total = np.concatenate([[0], np.cumsum(lengths)]), sum(lengths)
    joints, never = np.zeros((total, config.joints), np.float32), np.zeros(total, bool)
    return Demonstrations(
        canvas_FHWC=canvas, latents_FCYX=latents, position_FJ=joints, command_FJ=joints,
        plan_FKJ=np.zeros((total, config.chunk_steps, config.joints), np.float32),
        events_FEV4=np.zeros((total, config.value_events, len(config.views), 4), np.float32),
        text_F=np.array([vocabulary.index(text) for some in texts for text in some], np.int64), texts=vocabulary,
        empty_closed_F=never, picking_F=never, done_F=never, fresh_F=never,
        first_F=np.repeat(starts[:-1], lengths), last_F=np.repeat(starts[1:] - 1, lengths),
        task_F=np.zeros(total, np.int64), part_F=np.zeros(total, np.int64),
    )


def _sentences(path: Path) -> list[str]:
    """The sentence of every frame of a video."""
    frames = len(read_arrays(path, ("canvas_THWC",))["canvas_THWC"])
    with np.load(path, allow_pickle=False) as file:
        if "texts" not in file.files or "text_T" not in file.files:
            return [NO_SENTENCE] * frames
        arrays = {name: file[name] for name in ("texts", "text_T")}
    refuse(path, problem_of(arrays, ()))
    names = [str(text) for text in arrays["texts"]]
    return [names[i] for i in arrays["text_T"]]
