"""Parts of a model taken away while it plays: what each is worth, in the same table as the whole.

A name in `ABLATIONS` says which inputs of which graphs are blanked. The weights stay as they are, so this measures what
the model uses, not what a model trained without the part would do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from starry_ros.errors import ConfigError

if TYPE_CHECKING:
    from starry_ros.wam.runtimes.base import Runtime
    from starry_ros.wam.runtimes.runner import GraphRunner

Arrays = dict[str, np.ndarray]
Blank = Mapping[str, Callable[[np.ndarray], np.ndarray]]
UNSEEN = -8.0
"""Logit of a view that surely does not show the contact."""
_MIDDLE: Callable[[np.ndarray], np.ndarray] = lambda x: np.full_like(x, 0.5)  # noqa: E731
_UNSEEN: Callable[[np.ndarray], np.ndarray] = lambda x: np.full_like(x, UNSEEN)  # noqa: E731
_LANDING: Blank = {"landing": _MIDDLE, "seen": _UNSEEN}
_VALUE: Blank = {"value_k": np.zeros_like, "value_v": np.zeros_like}
_PAST: Blank = {"past_valid": np.zeros_like}
_EXECUTED: Blank = {"executed_valid": np.zeros_like}
ABLATIONS: Mapping[str, Mapping[str, Blank]] = {
    "no_value": {"act": {**_LANDING, **_VALUE}},
    "no_landing": {"act": _LANDING},
    "no_value_tokens": {"act": _VALUE},
    "no_history": {"imagine": {**_PAST, **_EXECUTED}, "predict_value": _PAST, "act": _EXECUTED},
    "no_imagination": {"predict_value": {"future_k": np.zeros_like, "future_v": np.zeros_like}},
    "no_sentence": {"imagine": {"text_k": np.zeros_like, "text_v": np.zeros_like, "sentence": np.zeros_like}},
}


def ablate(runtime: Runtime, name: str) -> None:
    """Take a part away from a runtime, for good. ConfigError on an unknown name or a model without these graphs.

    Committed steps stay known: they stand among the executed actions, and are no history.
    """
    from starry_ros.wam.runtimes.runner import GraphRunner

    if name not in ABLATIONS:
        raise ConfigError("--ablation", "is unknown", got=name, expected=list(ABLATIONS))
    if not isinstance(runtime, GraphRunner) or not set(ABLATIONS[name]) <= set(runtime.engines):
        raise ConfigError("--ablation", "needs a model whose streams run one after the other", got=name)
    spared: Blank = {"executed_valid": partial(_supposed_alone, runtime)}
    for graph, blanks in ABLATIONS[name].items():
        chosen = {given: spared.get(given, blank) for given, blank in blanks.items()}
        runtime.engines[graph] = _blanked(runtime.engines[graph], chosen)


def _supposed_alone(runtime: GraphRunner, valid_1N: np.ndarray) -> np.ndarray:
    """Which executed actions are left: those of the newest slot while it holds what is supposed to be commanded next.

    Then a branch is open that the frames know nothing of: see `GraphRunner.supposing`.
    """
    actions, left_1N = runtime.actions, np.zeros_like(valid_1N)
    if actions.branches > runtime.frames.branches:
        start = actions.slot_of(actions.written - 1) * actions.tokens
        left_1N[:, start : start + actions.tokens] = valid_1N[:, start : start + actions.tokens]
    return left_1N


def _blanked(engine: Callable[[Arrays], Arrays], blanks: Blank) -> Callable[[Arrays], Arrays]:
    def run(arrays: Arrays) -> Arrays:
        return engine({name: blanks[name](value) if name in blanks else value for name, value in arrays.items()})

    return run
