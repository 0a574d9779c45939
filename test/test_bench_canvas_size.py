"""What a canvas size costs and shows."""

import numpy as np
import pytest

from starry_ros.bench import canvas_size
from starry_ros.canvas.layout import t_pose_layout
from starry_ros.paths import robot_file
from starry_ros.robot_spec import load_robot_spec
from starry_ros.sim.cell import Cell
from starry_ros.sim.tasks import evaluation_case

SPEC = load_robot_spec(robot_file("bimanual_sim"))


@pytest.fixture(scope="module")
def cell():
    made = Cell(SPEC)
    made.reset(evaluation_case(0)[0])
    return made


def test_a_pixel_covers_what_the_camera_s_focal_length_says(cell):
    layout = t_pose_layout(SPEC)
    for camera, shrink in (("left_wrist", 80 / 320), ("right_wrist", 80 / 320)):
        focal_px = cell.camera_model(camera).fx_px * shrink
        wanted = 1e3 * canvas_size.ABOVE_M / focal_px
        assert canvas_size.mm_a_pixel(cell, layout, camera) == pytest.approx(wanted)


def test_a_head_pixel_covers_what_two_points_on_the_table_are_apart(cell):
    layout, model = t_pose_layout(SPEC), cell.camera_model("head")
    inverse = np.linalg.inv(model.T_world_cam)
    middle = np.array([np.mean(canvas_size.REGION_X_M), np.mean(canvas_size.REGION_Y_M), 0.0])
    across = model.T_world_cam[:3, 0] * 0.01  # along the camera's rows, so at the same depth
    seen = []
    for point in (middle, middle + across):
        x, y, z = inverse[:3, :3] @ point + inverse[:3, 3]
        camera_px = [model.fx_px * x / z + model.cx_px, model.fy_px * y / z + model.cy_px]
        seen.append(layout.camera_to_canvas("head", [camera_px])[0])
    wanted = 10.0 / np.hypot(*(seen[1] - seen[0]))
    assert canvas_size.mm_a_pixel(cell, layout, "head") == pytest.approx(wanted, rel=1e-6)


def test_twice_the_size_halves_a_pixel_s_cover_and_every_row_has_its_baseline(monkeypatch):
    monkeypatch.setattr(canvas_size, "plan_ms", lambda spec: float(spec.canvas.height_px))
    rows = {row["name"]: row for row in canvas_size.run(SPEC)}
    assert len(rows) == 2 * 4
    for camera in ("head", "left_wrist", "right_wrist"):
        row = rows[f"canvas_size/384x320/{camera}"]
        assert row["ratio"] == pytest.approx(2.0)
        assert row["baseline"] == rows[f"canvas_size/192x160/{camera}"]["value"]
    assert rows["canvas_size/384x320/plan"]["ratio"] == pytest.approx(0.5)
