"""Import of MuJoCo with an OpenGL platform that works without a display.

`MUJOCO_GL` must be set before the first `import mujoco`: an existing value is kept, else EGL, else OSMesa.
"""

from __future__ import annotations

import ctypes
import os

from starry_ros.errors import RuntimeUnavailable


def choose_gl() -> str:
    """The OpenGL platform to use: `MUJOCO_GL` if set, else the first of EGL and OSMesa found, else `disable` (rays)."""
    asked = os.environ.get("MUJOCO_GL")
    if asked:
        return asked
    for name, library in (("egl", "libEGL.so.1"), ("osmesa", "libOSMesa.so.8")):
        try:
            ctypes.CDLL(library)
        except OSError:
            continue
        return name
    return "disable"


os.environ["MUJOCO_GL"] = choose_gl()

try:
    import mujoco
except ImportError as error:
    raise RuntimeUnavailable(
        "kinematics", "the mujoco package is missing", fix="pip install mujoco"
    ) from error

__all__ = ["choose_gl", "mujoco"]
