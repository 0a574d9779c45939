"""How long after its end a node is started again: soon, unless its death takes the plans from the arms.

Arms that lose their plans come to rest, and wait for `arm` once they have stood for the executor's patience. A packer
or a planner that was back before that would set them off again, and nobody would have called `arm`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from starry_ros.errors import ConfigError
from starry_ros.robot_spec import RobotSpec

SOON_S = 1.0
"""For a node that gives the arms nothing."""
PATIENCE_S, SLOW_FACTOR, LONGEST_DELAY_S, OLDEST_S = 2.0, 2.0, 3.0, 3.0
"""The executor's own numbers, whose module takes seconds to load: `ExecutorConfig.patience_s`, `.slow_factor` and
`.max_delay_s`, and the greatest age of what a plan was made from, `ScheduleConfig.max_observation_age_s`."""
ROOM_S = 2.0
"""For a stop that waits at a border, and for ticks that a busy machine leaves out: patience counts ticks."""


def without_plans_s(spec: RobotSpec, files: Sequence[Path]) -> float | None:
    """So long after the death of packer or planner the arms wait for `arm` for certain, given the executor's files of
    parameters; None where their patience never ends.
    """
    patience_s = longest_patience_s(files)
    return None if patience_s is None else followed_s(spec) + patience_s + ROOM_S


def followed_s(spec: RobotSpec) -> float:
    """The longest that arms follow plans of what was seen before: the last one comes as late as it may, begins a step
    after it has come, and is followed in SLOW, delayed by limits as much as plans may be.
    """
    horizon_s = (spec.action.chunk_steps + 1) * spec.action.step_s
    return OLDEST_S + SLOW_FACTOR * (horizon_s + LONGEST_DELAY_S)


def longest_patience_s(files: Sequence[Path]) -> float | None:
    """The longest `patience_s` that one of the files asks for, whichever of them counts; None where one says never."""
    given = [value for file in files for value in _values(_content(file), "patience_s")]
    numbers = [float(value) for value in given if isinstance(value, int | float)]
    return max([PATIENCE_S, *numbers]) if all(numbers) else None


def _content(file: Path) -> Any:
    try:
        return yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(str(file), "is no file of parameters", got=reason, fix="correct it") from error


def _values(content: Any, name: str) -> Iterator[Any]:
    """What a name stands for, wherever it does: keys of namespaces and nodes may be patterns."""
    if isinstance(content, Mapping):
        for key, value in content.items():
            yield from [value] if key == name else _values(value, name)
