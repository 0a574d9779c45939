"""Which episodes an iteration of reinforcement learning plays, and what the plans drawn in them get credit for.

| episodes | play | in them |
|---|---|---|
| scouts | new layouts, once each | every plan as it is served |
| probes | those that failed, in pairs | a few plans in a row drawn around the served ones, elsewhere in each pair |
| groups | those in which a pair of probes ended apart, in further pairs | the plans that this pair drew, anew |

The two episodes of a pair bring the same hand elsewhere at the same time, one by an offset, the other by the opposite
one. They are a group of GRPO: the one that ends better gets credit for what the other is blamed for, and pairs that end
alike teach nothing. So nobody learns from what an offset of either sign brings about, such as the kick that frees a
stuck arm, nor from how later plans of the episode make up for it. A layout whose pairs ended apart is played again in
the next iterations, for few others have as much to teach.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from starry_ros.robot_spec import RobotSpec
from starry_ros.sim.cases import Case
from starry_ros.sim.tasks import TASKS
from starry_ros.training.budgets import RlConfig
from starry_ros.training.rl_rollout import Rollout, RolloutJob
from starry_ros.training.rl_sampler import Draw
from starry_ros.types import Record

FIRST_SEED, PER_TASK = 5_000_000, 100_000
"""Layouts of reinforcement learning begin here, so many for every task. They are of the training split, sentences
included; those of a task follow each other, for what is asked for goes round with the seed."""
LATEST = 0.75
"""Share of an episode's plans after which there is no time left to make good what failed."""
LEAST_SPREAD = 0.1
"""Groups whose returns deviate by less teach nothing: where every episode succeeds, or none, what is left is the third
digit of the value map's reward, and an optimiser that normalises gradients would follow it as far as a success."""


@dataclass(frozen=True)
class Window:
    """Plans in a row that decide how a layout ends: the plan that they begin with, and the number of the arm whose hand
    they bring elsewhere. `left`: in so many further iterations it may be played.
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

    def probes(self, step: int, scouts: Sequence[Rollout]) -> list[RolloutJob]:
        """Pairs of the layouts that failed: the plans that are drawn lie evenly over the episode."""
        config, jobs = self.config, []
        for scout in [scout for scout in scouts if not scout.success][: config.groups]:
            rng = np.random.default_rng([config.seed, step, scout.job.case.seed])
            places = max(1, int(LATEST * len(scout.arms)) - config.plans_drawn + 1)
            for part in range(config.probes):
                first = int((part + rng.random()) * places / config.probes)
                jobs += self._pair(Window(scout.job.case, first, scout.arms[first]), rng)
        return jobs

    def groups(self, step: int, windows: Iterable[Window]) -> list[RolloutJob]:
        """Further pairs of the plans that decide."""
        config, jobs = self.config, []
        for window in windows:
            rng = np.random.default_rng([config.seed, step, window.case.seed, 1])
            for _ in range(config.pairs):
                jobs += self._pair(window, rng)
        return jobs

    def deciding(self, probes: Sequence[Rollout]) -> list[Window]:
        """Of every layout the plans of the pair that ended farthest apart, where one did."""
        found: dict[Case, tuple[float, Window]] = {}
        for pair in pairs_of(probes):
            apart, job = float(np.ptp(self._returns(pair))), pair[0].job
            if apart >= 2 * LEAST_SPREAD and apart > found.get(job.case, (0.0,))[0]:
                found[job.case] = apart, Window(job.case, job.drawn[0], job.arm, self.config.again)
        return [window for _, window in found.values()]

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
                           arm=window.arm, mirrored=mirrored) for mirrored in (False, True)]

    def _returns(self, rollouts: Iterable[Rollout]) -> list[float]:
        config = self.config
        return [config.dense_weight * each.dense + config.success_weight * each.success for each in rollouts]


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


def outcomes(rollouts: Sequence[Rollout]) -> dict[str, list[int]]:
    """Successes and episodes by the layout's number."""
    found: dict[str, list[int]] = {}
    for rollout in rollouts:
        counts = found.setdefault(str(rollout.job.case.seed - FIRST_SEED), [0, 0])
        counts[0] += rollout.success
        counts[1] += 1
    return found
