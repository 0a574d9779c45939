"""Joints that count the other way on the wire, and grippers in other units, in LeRobot data sets."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_data_import_again import write_lerobot
from test_data_transfer import NAMES, painted
from test_data_wire import FLIPPED, HOME, SPEC, TURNED, WIRE_SIGN

from starry_ros.data.lerobot_format import OWN_FILE
from starry_ros.data.lerobot_read import LeRobotReader, Mapping
from starry_ros.data.lerobot_write import export_lerobot
from starry_ros.data.store import read_episode
from starry_ros.data.transfer import import_lerobot
from starry_ros.errors import DataError
from starry_ros.robot_spec import RobotSpec

ARMS = ~np.isin(np.arange(14), SPEC.gripper_indices)
FEATURES = {"observation.state": "position_TJ", "observation.velocity": "velocity_TJ",
            "observation.command": "command_TJ"}


def with_jaws_turned(spec: RobotSpec) -> RobotSpec:
    """The same robot with grippers that count the other way on the wire."""
    arms = tuple(dataclasses.replace(arm, joints=(*arm.joints[:-1], dataclasses.replace(arm.joints[-1], sign=-1)))
                 for arm in spec.arms)
    return dataclasses.replace(spec, arms=arms)


def write(root: Path, **features: np.ndarray) -> None:
    """A foreign data set of one episode of 12 frames; further features of joints by their last name."""
    write_lerobot(root, [0.03])
    path, info = root / "data/episode_000000.parquet", json.loads((root / "meta/info.json").read_text())
    table = pq.read_table(path)
    for name, rows in features.items():
        feature = name if name == "action" else f"observation.{name}"
        info["features"][feature] = {"dtype": "float32", "shape": [14], "names": NAMES}
        if feature in table.column_names:
            table = table.drop_columns([feature])
        table = table.append_column(feature, pa.array(rows.astype(np.float32).tolist()))
    pq.write_table(table, path)
    (root / "meta/info.json").write_text(json.dumps(info))


def test_foreign_rows_are_the_drivers_and_come_in_as_the_contracts(tmp_path):
    rng = np.random.default_rng(0)
    state, velocity, action, command = (rng.normal(size=(12, 14)) for _ in range(4))
    spec = with_jaws_turned(TURNED)
    sign = WIRE_SIGN * np.where(ARMS, 1, -1)
    write(tmp_path / "a", state=state, velocity=velocity, action=action)
    made = LeRobotReader(tmp_path / "a", spec).recording(0)
    assert np.allclose(made.position_TJ, sign * state)
    assert np.allclose(made.velocity_TJ, sign * velocity)
    assert np.allclose(made.command_TJ[1:], sign * action[:-1])
    write(tmp_path / "b", command=command)
    assert np.allclose(LeRobotReader(tmp_path / "b", spec).recording(0).command_TJ, sign * command)


@pytest.mark.parametrize("spec", [SPEC, with_jaws_turned(SPEC)], ids=["sign 1", "sign -1"])
def test_a_gripper_range_says_alone_which_way_grippers_go_and_moves_no_velocity(tmp_path, spec):
    told, rate = np.tile(np.where(ARMS, HOME, 75.0), (12, 1)), np.tile(np.where(ARMS, 0.3, -25.0), (12, 1))
    write(tmp_path, state=told, velocity=rate)
    made = LeRobotReader(tmp_path, spec, Mapping(gripper_range=(100.0, 0.0))).recording(0)
    assert np.allclose(made.position_TJ[:, ~ARMS], 0.25 * 0.04)
    assert np.allclose(made.velocity_TJ[:, ~ARMS], 0.25 * 0.04)
    assert np.allclose(made.velocity_TJ[:, ARMS], 0.3)


@pytest.fixture
def exported(tmp_path: Path) -> tuple[Path, dict[str, np.ndarray]]:
    """An export of a robot of which two joints count the other way, and what was exported."""
    arrays = painted(3, 6)
    arrays["position_TJ"][:, FLIPPED] += 0.2
    export_lerobot([lambda: arrays], tmp_path / "out", TURNED, "here")
    return tmp_path / "out", arrays


def test_an_export_holds_the_drivers_values_and_comes_back_bit_for_bit(exported):
    folder, arrays = exported
    table = pq.read_table(folder / "data/chunk-000/file-000.parquet")
    for feature, name in FEATURES.items():
        assert np.array_equal(np.array(table[feature].to_pylist()), WIRE_SIGN * arrays[name]), feature
    assert np.array_equal(np.array(table["action"].to_pylist())[:-1], (WIRE_SIGN * arrays["command_TJ"])[1:])
    same = LeRobotReader(folder, TURNED).recording(0)
    twin = LeRobotReader(folder, dataclasses.replace(TURNED, name="twin")).recording(0)
    for name in FEATURES.values():
        assert np.array_equal(same.known[name], arrays[name]), name
        assert np.array_equal(getattr(same, name), arrays[name]), name
        assert np.array_equal(getattr(twin, name), arrays[name]), name
    assert np.array_equal(same.known["plan_TKJ"], arrays["plan_TKJ"])


def test_an_export_without_the_mark_holds_the_contracts_values(exported):
    folder, _ = exported
    table = pq.read_table(folder / "data/chunk-000/file-000.parquet")
    own = json.loads((folder / OWN_FILE).read_text())
    assert own.pop("driver_sign")
    (folder / OWN_FILE).write_text(json.dumps(own))
    for spec in (TURNED, dataclasses.replace(TURNED, name="twin")):
        made = LeRobotReader(folder, spec).recording(0)
        for feature, name in FEATURES.items():
            stored = np.array(table[feature].to_pylist(), np.float32)
            assert np.array_equal(getattr(made, name), stored), feature
            assert np.array_equal(made.known.get(name, stored), stored), feature


def test_an_import_that_left_signs_out_is_not_gone_on_with(tmp_path):
    write(tmp_path / "in", state=np.tile(WIRE_SIGN * HOME, (12, 1)))
    out = tmp_path / "out"
    assert import_lerobot(tmp_path / "in", out, TURNED, Mapping()) == []
    assert np.allclose(read_episode(out / "episodes/000000.npz")["position_TJ"], HOME)
    assert import_lerobot(tmp_path / "in", out, TURNED, Mapping()) == []
    journal = json.loads((out / "import.json").read_text())
    del journal["from"]["mapping"]["sign"]
    (out / "import.json").write_text(json.dumps(journal))
    with pytest.raises(DataError, match="another import"):
        import_lerobot(tmp_path / "in", out, TURNED, Mapping())
