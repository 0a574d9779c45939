"""Models that see more than colour plan in the mode, with the latency and the splice, that the loop says."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from wam_kit import JOINTS, LAYOUT, SPEC, STEP_NS, LetterEncoder, make_checkpoint

from starry_ros.canvas.pack import CanvasPacker
from starry_ros.canvas.paths import LENGTH
from starry_ros.sim.cell import BlockPose, Cell, Layout
from starry_ros.sim.choices import LoopConfig
from starry_ros.sim.loop import observe
from starry_ros.timing import NS_PER_S, nanoseconds
from starry_ros.training.policies import policy_of
from starry_ros.training.scene_policy import ScenePolicy, at_steps
from starry_ros.types import ActionChunk, RobotState
from starry_ros.wam.load import choose_geometry
from starry_ros.wam.runtimes.torch_runtime import torch_runtime
from starry_ros.wam.session import Session


@pytest.fixture(scope="module")
def cell() -> Iterator[Cell]:
    made = Cell(SPEC)
    made.reset(Layout({"red": BlockPose(0.10, -0.10, 0.3), "green": BlockPose(0.20, 0.05, 0.0),
                       "blue": BlockPose(0.15, -0.02, 1.0)}, 0.2, -0.1))
    yield made
    made.close()


def chunks(cell: Cell, loop: LoopConfig) -> tuple[list[ActionChunk], list[Any]]:
    """Two plans, 0.4 s apart, of a model whose attention weighs what is measured; and the scenes that it was given."""
    checkpoint = choose_geometry(make_checkpoint(), "measured")
    runtime = torch_runtime(checkpoint.build_model(), checkpoint.autoencoder)
    seen, look = list[Any](), runtime.look
    runtime.look = lambda scene: seen.append(scene) or look(scene)  # type: ignore[method-assign]
    session = Session(runtime, checkpoint.stats, LetterEncoder(), SPEC, LAYOUT.layout_hash)
    policy, packer = policy_of(session, cell, loop), CanvasPacker(LAYOUT)
    assert isinstance(policy, ScenePolicy)
    policy.reset("put the red block on the pad")
    home, made = SPEC.limit("home"), []
    for stamp_ns in (NS_PER_S, NS_PER_S + 4 * STEP_NS):
        state = RobotState(stamp_ns, home, np.zeros(JOINTS))
        made.append(policy.plan(observe(cell, packer, stamp_ns), state).chunk)
    return made, seen


def test_grounded_plans_begin_with_what_is_commanded_until_they_are_in_force(cell: Cell) -> None:
    (before, after), seen = chunks(cell, LoopConfig(latency_s=0.3))
    assert len(seen) == 2, "a scene for every frame"
    assert np.allclose(after.positions_KJ[:4], before.positions_KJ[4:8], atol=1e-12)
    assert not np.allclose(after.positions_KJ[4], before.positions_KJ[8], atol=1e-4)


def test_paths_of_the_hands_have_a_point_a_step_as_in_training_however_rarely_plans_come() -> None:
    def hand(at_s: float) -> np.ndarray:
        return np.array([[0.1 * at_s, 0.5, 0.0], [0.0, -0.2 * at_s, 1.0]])

    rare = [(at_s, hand(at_s)) for at_s in np.arange(0.0, 3.3, 0.4)]
    path_TA3 = at_steps(rare, 0.1)
    newest_s = rare[-1][0]
    assert np.allclose(path_TA3, [hand(newest_s - 0.1 * k) for k in range(LENGTH)][::-1])
    assert np.allclose(at_steps(rare[:2], 0.1), [hand(at_s) for at_s in (0.0, 0.1, 0.2, 0.3, 0.4)])


def test_naive_plans_begin_where_the_arms_are(cell: Cell) -> None:
    (before, after), _ = chunks(cell, LoopConfig(latency_s=0.3, mode="async_naive"))
    assert not np.allclose(after.positions_KJ[:4], before.positions_KJ[4:8], atol=1e-4)


def test_sync_plans_start_on_arrival_and_end_with_the_executed_part(cell: Cell) -> None:
    (first, _), _ = chunks(cell, LoopConfig(latency_s=0.3, mode="sync"))
    assert first.start_ns == NS_PER_S + nanoseconds(0.3) + STEP_NS
    assert len(first.positions_KJ) == 8
