"""Which episodes an iteration of reinforcement learning plays, and what the plans drawn in them get credit for.

A group of GRPO is one layout, played some times with other offsets. What a plan gets credit for:

| term | of a plan |
|---|---|
| time | what the task's script, taking over, says was lost while the plan's offset lasted and shortly after |
| dense | the value map where it brings a hand (AIM equation 12) |
| success | whether the episode succeeded |

Of each the mean of the group's other episodes at the same plan is taken away. Whole episodes tell little of one plan:
at a success of 0.8 how a grasp ends is chance. Time lost tells within a second what an offset was worth: a jaw that
closed on nothing, a block that slipped or was put down askew, an arm that rests. Advantages are not divided by the
group's deviation, which would make as much of a moment at which nothing is at stake as of a grasp.

Shapes: G episodes of a group, P plans of the longest of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from starry_ros.errors import ConfigError
from starry_ros.robot_spec import RobotSpec
from starry_ros.sim.cases import Case
from starry_ros.sim.tasks import TASKS
from starry_ros.training.budgets import RlConfig
from starry_ros.training.rl_rollout import LOOP, Rollout, RolloutJob
from starry_ros.training.rl_sampler import Draw
from starry_ros.types import F64

FIRST_SEED, PER_TASK = 5_000_000, 100_000
"""Layouts of reinforcement learning begin here, so many for every task. They are of the training split, sentences
included; those of a task follow each other, for what is asked for goes round with the seed."""
MOST_S = 1.5
"""Time lost or won beyond this counts as this much: a block that rolled away says no more of the plan than one that
fell over, but would outweigh ten grasps."""


class Schedule:
    """The episodes of a run, which follow from its configuration alone."""

    def __init__(self, model: Path, spec: RobotSpec, config: RlConfig, action_steps: int) -> None:
        if config.group < 2:
            raise ConfigError("train-rl", "a plan is compared with those of other episodes of its layout",
                              got=f"--group {config.group}", expected="2 or more")
        self._model, self._spec, self.config, self._action_steps = model, spec, config, action_steps

    def jobs(self, step: int) -> list[RolloutJob]:
        """The iteration's groups: new layouts, and noise of their own for each episode. Tasks take turns."""
        config = self.config
        layouts = range(step * config.layouts, (step + 1) * config.layouts)
        return [RolloutJob(self._model, self._spec, self._layout(number), (config.seed, number, episode),
                           self._action_steps, config.spread, config.held)
                for number in layouts for episode in range(config.group)]

    def credited(self, rollouts: Sequence[Rollout]) -> list[tuple[Draw, float]]:
        """Every drawn plan with its advantage."""
        return [(draw, float(advantage))
                for group in groups_of(rollouts)
                for rollout, advantages in zip(group, self.advantages(group), strict=True)
                for draw, advantage in zip(rollout.draws, advantages, strict=False)]

    def advantages(self, group: Sequence[Rollout]) -> F64:
        """Of every plan of a group [G, P]; 0 where an episode was over."""
        config = self.config
        plans = max(len(each.draws) for each in group)
        of_time = [_held_to_end(-self._lost_s(each), plans) for each in group]
        of_map = [_held_to_end(np.array(each.rewards), plans) for each in group]
        of_success = [np.full(plans, float(each.success)) for each in group]
        found_GP = (config.time_weight * np.clip(above_others(of_time), -MOST_S, MOST_S)
                    + config.dense_weight * above_others(of_map) + config.success_weight * above_others(of_success))
        alive_GP = np.arange(plans) < np.array([[len(each.draws)] for each in group])
        masked_GP: F64 = np.where(alive_GP, found_GP, 0.0)
        return masked_GP

    def _lost_s(self, rollout: Rollout) -> F64:
        """Time lost from the first plan of each plan's offset until `look_on_s` later."""
        expected_s, plans = np.array(rollout.expected_s), len(rollout.draws)
        first = np.arange(plans) // self.config.held * self.config.held
        later = np.minimum(first + round(self.config.look_on_s / LOOP.replan_s), plans)
        lost_s: F64 = expected_s[later] - expected_s[first]
        return lost_s

    def _layout(self, number: int) -> Case:
        tasks = self.config.tasks
        task = tasks[number % len(tasks)]
        seed = FIRST_SEED + PER_TASK * TASKS.index(task) + number // len(tasks)
        return Case(seed, "normal", task, self.config.setting, "train")


def groups_of(rollouts: Iterable[Rollout]) -> list[list[Rollout]]:
    """Episodes of one layout."""
    found: dict[Case, list[Rollout]] = {}
    for rollout in rollouts:
        found.setdefault(rollout.job.case, []).append(rollout)
    return list(found.values())


def above_others(values: Sequence[F64]) -> F64:
    """Each episode's values less the mean of the others' [G, P]."""
    values_GP = np.stack(values)
    others_GP = (values_GP.sum(0) - values_GP) / (len(values_GP) - 1)
    found_GP: F64 = values_GP - others_GP
    return found_GP


def in_order(rollouts: Iterable[Rollout]) -> list[Rollout]:
    """In an order that does not depend on which ended first."""
    return sorted(rollouts, key=lambda each: each.job.noise_seed)


def _held_to_end(values_P: F64, plans: int) -> F64:
    """As long as the group's longest episode; one that is over loses and earns nothing."""
    return np.pad(values_P, (0, plans - len(values_P)))
