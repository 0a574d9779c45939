"""Labels that `starry data generate` writes stand where MuJoCo's own contact list has the contact, for every task."""

from __future__ import annotations

import numpy as np
import pytest

from starry_ros.canvas.layout import t_pose_layout
from starry_ros.kinematics.backend import mujoco
from starry_ros.paths import robot_file
from starry_ros.sim.cell import Cell
from starry_ros.sim.choices import STAGES
from starry_ros.sim.tasks import named_target
from starry_ros.training.annotate import ContactLog, label, targets
from starry_ros.training.episodes import Recorder, Source
from starry_ros.training.generate import record_episode

ROBOT = robot_file("bimanual_sim")
LASTING = 4
NEAR_PX = 0.1
"""Canvas pixels; one is about 5 mm on the table."""
FIRST = {
    "place_block_pad": [("grasp", "{0}"), ("put", "{0}", "pad")],
    "handover_block": [("grasp", "{0}", "right"), ("meet", "{0}", "left")],
    "stack_blocks_two": [("grasp", "{0}"), ("put", "{0}", "{1}")],
    "place_dual_blocks": [("grasp", "{0}", "left"), ("grasp", "{1}", "right")],
    "lift_tray": [("grasp", "handle_left"), ("grasp", "handle_right")],
    "press_button": [("press", "{0}_button")],
    "put_block_drawer": [("grasp", "knob"), ("grasp", "{0}")],
}
"""What the two labels of the first frame are about."""
WITH_BLOCKS_IN_HANDS = {
    "place_block_pad": [("put", "{0}", "pad")],
    "handover_block": [("put", "{0}", "pad")],
    "stack_blocks_two": [("put", "{0}", "{1}")],
    "place_dual_blocks": [("put", "{0}", "pad_left"), ("put", "{1}", "pad")],
    "put_block_drawer": [("put", "{0}", "drawer")],
}


class Ledger:
    """Everything that MuJoCo says after every tick: forces and points of contacts, poses, cameras."""

    def __init__(self, cell: Cell) -> None:
        self.cell, self.ticks = cell, []

    def note(self) -> None:
        model, data = self.cell.model, self.cell.data
        contacts = []
        for i in range(data.ncon):
            force, names = np.zeros(6), {model.geom(int(g)).name for g in data.contact[i].geom}
            mujoco.mj_contactForce(model, data, i, force)
            contacts.append((names, np.array(data.contact[i].pos), force[0]))
        self.ticks.append({
            "time": data.time, "contacts": contacts, "at": data.geom_xpos.copy(), "turn": data.geom_xmat.copy(),
            "cam_at": data.cam_xpos.copy(), "cam_turn": data.cam_xmat.copy(), "qvel": data.qvel.copy(),
        })

    def at(self, time_s: float) -> dict:
        return min(self.ticks, key=lambda tick: abs(tick["time"] - time_s))

    def pose(self, tick: dict, geom: str) -> tuple[np.ndarray, np.ndarray]:
        index = self.cell.model.geom(geom).id
        return tick["at"][index], tick["turn"][index].reshape(3, 3)

    def points(self, tick: dict, deed: str, geom: str, more: str | None) -> list[tuple[np.ndarray, float]]:
        """Points and forces of the contacts that make up a deed at a tick; none if it is not being done."""
        if deed == "put":
            fingers = any(geom in names and any(n.startswith(("left_", "right_")) for n in names)
                          for names, *_ in tick["contacts"])
            start = int(self.cell.model.joint(geom).dofadr[0])
            moving = np.linalg.norm(tick["qvel"][start : start + 3]) > 0.02
            return [] if fingers or moving else [c[1:] for c in tick["contacts"] if c[0] == {geom, more}]
        found = []
        for arm in [more] if more else ["left", "right"]:
            pairs = ({f"{arm}_pad", geom}, {f"{arm}_pad_mirror", geom})
            sides = [[c[1:] for c in tick["contacts"] if c[0] == pair] for pair in pairs]
            if deed == "press" or all(sides):
                found += sides[0] + sides[1]
        return found

    def place(self, time_s: float, deed: str, geom: str, more: str | None = None) -> np.ndarray:
        """Where the first such deed after an instant happened, carried back to that instant by what was touched."""
        lasted = 0
        for tick in (tick for tick in self.ticks if tick["time"] > time_s):
            points = self.points(tick, deed, geom, more)
            lasted = lasted + 1 if points else 0
            if lasted == LASTING:
                force = np.array([f for _, f in points])
                point = force @ np.array([p for p, _ in points]) / force.sum()
                if deed == "meet":
                    return point
                carrier = more if deed == "put" else geom
                (then, turned), (now, turn) = self.pose(tick, carrier), self.pose(self.at(time_s), carrier)
                return now + point - then if deed == "put" else now + turn @ turned.T @ (point - then)
        raise AssertionError(f"{deed} {geom} never happened")

    def pixel(self, time_s: float, camera: str, point: np.ndarray) -> np.ndarray:
        """Where a pinhole camera of MuJoCo's field of view, 320 x 240, sees a world point."""
        tick, index = self.at(time_s), self.cell.model.camera(camera).id
        x, y, z = tick["cam_turn"][index].reshape(3, 3).T @ (point - tick["cam_at"][index])
        focal = 120 / np.tan(np.radians(self.cell.model.cam_fovy[index]) / 2)
        return np.array([159.5 + focal * x / -z, 119.5 - focal * y / -z])


def recorded(cell: Cell, task: str, kind: str = "clean") -> tuple[Recorder, Ledger]:
    """A demonstration, and what MuJoCo said during it."""
    ledger, advance = Ledger(cell), cell.advance

    def noted(duration_s: float) -> None:
        if not ledger.ticks:
            ledger.note()
        advance(duration_s)
        ledger.note()

    cell.advance = noted
    try:
        recorder, _, success = record_episode(cell, Source(task, 3, ROBOT, kind=kind), 0, 0)
    finally:
        cell.advance = advance
    assert success
    return recorder, ledger


def off_px(ledger: Ledger, arrays: dict, frame: int, deeds: list) -> list[float]:
    """How far the labels of a frame lie from the contacts that came, in every view that they are in."""
    canvas, time_s, found = t_pose_layout(ledger.cell.spec), float(arrays["time_s_T"][frame]), []
    target = named_target(str(arrays["texts"][arrays["text_T"][frame]]), arrays["task"])
    colours = [word for word in target.split() if word in ("red", "green", "blue")]
    for event, deed in enumerate(deeds):
        point = ledger.place(time_s, *(word.format(*colours) for word in deed))
        for view, camera in enumerate(canvas.cameras):
            label = arrays["events_TEVF"][frame, event, view]
            if label[3]:
                wanted = canvas.camera_to_canvas(camera, ledger.pixel(time_s, camera, point))
                found.append(float(np.linalg.norm(label[:2] - wanted)))
    return found


@pytest.mark.parametrize("task", list(FIRST))
def test_labels_of_a_demonstration_stand_where_the_contact_list_has_the_contacts(blind, task):
    recorder, ledger = recorded(blind, task)
    arrays = next(iter(recorder.episodes())) | {"task": task}
    frames = [(0, FIRST[task])]
    in_hand = np.flatnonzero((arrays["stage_T"] == STAGES.index("place")) & (arrays["time_s_T"] > 0.5))
    if task in WITH_BLOCKS_IN_HANDS:
        frames.append((int(in_hand[0]), WITH_BLOCKS_IN_HANDS[task]))
    for frame, deeds in frames:
        off = off_px(ledger, arrays, frame, deeds)
        assert len(off) >= len(deeds)
        assert max(off) < NEAR_PX
    shots, canvas = recorder._films[0]._shots, t_pose_layout(blind.spec)
    without_log = arrays | {"events_TEVF": label(shots, ContactLog(), canvas, task)}
    assert max(off_px(ledger, without_log, 0, FIRST[task])) > 2 * NEAR_PX


def test_a_knob_that_one_finger_carries_is_labelled_where_that_finger_presses(blind):
    """In this episode both never touch it at once."""
    recorder, ledger = recorded(blind, "put_block_drawer", "disturbed")
    on_knob = [[names for names, *_ in tick["contacts"] if "knob" in names] for tick in ledger.ticks]
    fingers = [{name for names in some for name in names if name.startswith("left_pad")} for some in on_knob]
    assert {len(some) for some in fingers} == {0, 1}
    target = targets(recorder._films[0]._shots[0], recorder.log, "put_block_drawer")[0]
    at, turn = ledger.pose(ledger.ticks[0], "knob")
    along, across, up = turn.T @ (target.point - at)
    assert target.came
    assert abs(across) == pytest.approx(0.008, abs=0.0005)
    assert abs(along) < 0.0225
    assert abs(up) < 0.0245
