"""Which episodes an iteration of reinforcement learning plays, and what the plans drawn in them get credit for.

| episodes | play | in them |
|---|---|---|
| scouts | new layouts, once each | every plan as it is served |
| groups | those that lost most time, in pairs, until soon after that | the plans that lost it, around the served ones |

Plans lose time where the task's script, taking over after them, would be done later than before them: a jaw that closed
on nothing, a block that slipped or was put down askew, an arm that rests. The two episodes of a pair bring the same
hand elsewhere at the same time, one by an offset, the other by the opposite one. They are a group of GRPO: the one that
would be done earlier gets credit for what the other is blamed for, and pairs that end alike teach nothing. So nobody
learns from what an offset of either sign brings about, such as the kick that frees a stuck arm. A layout whose pairs
ended apart is played again in the next iterations, for few others have as much to teach.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from starry_ros.robot_spec import RobotSpec
from starry_ros.sim.cases import Case
from starry_ros.sim.tasks import TASKS, task_of
from starry_ros.training.budgets import RlConfig
from starry_ros.training.rl_rollout import LOOP, Rollout, RolloutJob
from starry_ros.training.rl_sampler import Draw
from starry_ros.types import Record

FIRST_SEED, PER_TASK = 5_000_000, 100_000
"""Layouts of reinforcement learning begin here, so many for every task. They are of the training split, sentences
included; those of a task follow each other, for what is asked for goes round with the seed."""
LEAST_SPREAD = 0.03
"""Groups whose returns deviate by less teach nothing: what is left then is who hurries, and the third digit of the
value map's reward, and an optimiser that normalises gradients would follow these as far as a grasp that holds. In a
pair and a task of 14 s it is worth 0.8 s."""
LEAST_LOSS = 0.8
"""Plans in a row that lost less, as a share of the time that they took, did nothing wrong: arms that rest lose 1."""


@dataclass(frozen=True)
class Window:
    """Plans in a row that decide how a layout goes on: the plan that they begin with, and the number of the arm whose
    hand they bring elsewhere. `left`: in so many further iterations it may be played.
    """

    case: Case
    first: int
    arm: int
    left: int = 0


class Schedule:
    """The episodes of a run: what is played follows from its configuration and from what was played before."""

    def __init__(self, model: Path, spec: RobotSpec, config: RlConfig, action_steps: int) -> None:
        self._model, self._spec, self.config, self._action_steps = model, spec, config, action_steps

    def scouts(self, step: int) -> list[RolloutJob]:
        """The iteration's layouts, as they are served."""
        config = self.config
        cases = [self._layout(number) for number in range(step * config.scouts, (step + 1) * config.scouts)]
        return [RolloutJob(self._model, self._spec, case, case.seed, self._action_steps, config.spread, anchors=1)
                for case in cases]

    def windows(self, scouts: Sequence[Rollout]) -> list[Window]:
        """The plans that lost most, of the scouts that did."""
        config = self.config
        found = sorted(((loss(scout, config.plans_drawn), scout) for scout in scouts), key=lambda each: -each[0][0])
        return [Window(scout.job.case, first, scout.arms[first], config.again)
                for (lost_s, first), scout in found[: config.groups]
                if lost_s >= LEAST_LOSS * config.plans_drawn * LOOP.replan_s]

    def groups(self, step: int, windows: Iterable[Window]) -> list[RolloutJob]:
        """Pairs of the plans that decide."""
        config, jobs = self.config, []
        for window in windows:
            rng = np.random.default_rng([config.seed, step, window.case.seed, 1])
            for _ in range(config.pairs):
                jobs += self._pair(window, rng)
        return jobs

    def still_deciding(self, windows: Sequence[Window], groups: Sequence[Rollout]) -> list[Window]:
        """Those to play in the next iteration too: a pair of theirs has ended apart, and they were not played long."""
        mixed = {pair[0].job.case for pair in pairs_of(groups) if advantages(self._returns(pair)).any()}
        return [Window(each.case, each.first, each.arm, each.left - 1)
                for each in windows if each.left and each.case in mixed]

    def credited(self, rollouts: Sequence[Rollout]) -> list[tuple[Draw, float]]:
        """Every drawn plan with its episode's advantage within its pair."""
        return [(draw, float(advantage)) for pair in pairs_of(rollouts)
                for rollout, advantage in zip(pair, advantages(self._returns(pair)), strict=True)
                for draw in rollout.draws if advantage]

    def noted(self, windows: Iterable[Window]) -> list[Record]:
        """What `metrics.jsonl` keeps of windows."""
        return [{"task": each.case.task, "seed": each.case.seed, "first": each.first, "arm": each.arm,
                 "left": each.left} for each in windows]

    def known(self, noted: Iterable[Record]) -> list[Window]:
        """Windows again."""
        return [Window(self._case(each["task"], each["seed"]), each["first"], each["arm"], each["left"])
                for each in noted]

    def _layout(self, number: int) -> Case:
        """Tasks take turns."""
        tasks = self.config.tasks
        task = tasks[number % len(tasks)]
        return self._case(task, FIRST_SEED + PER_TASK * TASKS.index(task) + number // len(tasks))

    def _case(self, task: str, seed: int) -> Case:
        return Case(seed, "normal", task, self.config.setting, "train")

    def _pair(self, window: Window, rng: np.random.Generator) -> list[RolloutJob]:
        config, noise_seed = self.config, int(rng.integers(2**62))
        drawn = tuple(range(window.first, window.first + config.plans_drawn))
        return [RolloutJob(self._model, self._spec, window.case, noise_seed, self._action_steps, config.spread, drawn,
                           arm=window.arm, mirrored=mirrored, look_on_s=config.look_on_s) for mirrored in (False, True)]

    def _returns(self, rollouts: Iterable[Rollout]) -> list[float]:
        """Of success, the share of the task's time that it leaves over."""
        config = self.config
        return [config.dense_weight * each.dense
                + config.success_weight * (1 - each.done_s / task_of(each.job.case.task).time_limit_s)
                for each in rollouts]


def loss(scout: Rollout, plans: int) -> tuple[float, int]:
    """The most time that so many plans in a row lost, in s, and the first of the first such plans."""
    expected_s, count = np.array(scout.expected_s), len(scout.arms)
    lost_s = np.round(expected_s[np.minimum(np.arange(count) + plans, count)] - expected_s[:-1], 3)
    first = int(np.argmax(lost_s))
    return float(lost_s[first]), first


def pairs_of(rollouts: Iterable[Rollout]) -> list[list[Rollout]]:
    """Episodes of one layout and one noise."""
    found: dict[tuple[Case, int], list[Rollout]] = {}
    for rollout in rollouts:
        found.setdefault((rollout.job.case, rollout.job.noise_seed), []).append(rollout)
    return list(found.values())


def advantages(returns: Sequence[float]) -> np.ndarray:
    """Returns of one group less their mean, over their deviation; all 0 where that is below `LEAST_SPREAD`."""
    values = np.array(returns, dtype=np.float64)
    deviation = float(values.std())
    advantage: np.ndarray = (values - values.mean()) / deviation if deviation >= LEAST_SPREAD else 0 * values
    return advantage


def in_order(rollouts: Iterable[Rollout]) -> list[Rollout]:
    """In an order that does not depend on which ended first."""
    return sorted(rollouts, key=lambda each: (each.job.case.seed, each.job.noise_seed, each.job.mirrored))
