"""The cameras' calibration as an array of an episode, so that its contacts can be labelled again as they were.

Shapes: V cameras in contract order, F = 6: width_px, height_px, fx_px, fy_px, cx_px, cy_px.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from starry_ros.errors import DataError
from starry_ros.robot_spec import RobotSpec
from starry_ros.training.form import Arrays
from starry_ros.types import F64, CameraModel

CALIBRATION = "calibration_VF"
FIELDS = 6


def calibration_array(spec: RobotSpec, found: Mapping[str, CameraModel]) -> F64:
    """Rows [V, F]; those of cameras that were not calibrated are zero."""
    rows = np.zeros((len(spec.cameras), FIELDS))
    for row, camera in zip(rows, spec.cameras, strict=True):
        if (model := found.get(camera.name)) is not None:
            row[:] = model.width_px, model.height_px, model.fx_px, model.fy_px, model.cx_px, model.cy_px
    return rows


def calibration_of(arrays: Arrays, spec: RobotSpec) -> dict[str, CameraModel]:
    """Inverse of `calibration_array`, without poses: the calibrated cameras of an episode, none if it stores none.

    DataError if it is of another number of cameras.
    """
    rows = arrays.get(CALIBRATION, np.zeros((len(spec.cameras), FIELDS)))
    if rows.shape != (len(spec.cameras), FIELDS):
        raise DataError(CALIBRATION, "is of other cameras", got=rows.shape, expected=(len(spec.cameras), FIELDS))
    return {
        camera.name: CameraModel(camera.name, int(width_px), int(height_px), fx_px, fy_px, cx_px, cy_px, np.eye(4))
        for camera, (width_px, height_px, fx_px, fy_px, cx_px, cy_px) in zip(spec.cameras, rows.tolist(), strict=True)
        if width_px > 0
    }
