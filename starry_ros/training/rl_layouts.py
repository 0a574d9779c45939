"""Which layouts reinforcement learning plays.

Only a group whose episodes ended differently teaches what succeeds, and most layouts are won or lost by every member.
So a layout whose outcomes differed is played once more, and the other places go to new layouts. (The aim is that of
DAPO's dynamic sampling, Yu et al. 2025, arXiv 2503.14476: no batch without information.)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

PLAYS_MOST = 2
"""A layout is played so often at most: what is learned must hold in others, too."""
Outcomes = Mapping[str, Sequence[int]]
"""Successes and episodes by the layout's number, of one iteration."""


def next_layouts(past: Iterable[Outcomes], groups: int) -> list[int]:
    """Numbers of the layouts of the next iteration, from the outcomes of all before it."""
    plays, differed = Counter[int](), dict[int, bool]()
    for outcomes in past:
        for name, (successes, episodes) in outcomes.items():
            plays[int(name)] += 1
            differed[int(name)] = 0 < successes < episodes
    again = [number for number, open_still in differed.items() if open_still and plays[number] < PLAYS_MOST][:groups]
    new = max(plays, default=-1) + 1
    return [*again, *range(new, new + groups - len(again))]
