"""MuJoCo, imported with an OpenGL platform that works without a display."""

from __future__ import annotations

from starry_ros.control.mujoco_backend import choose_gl, mujoco

__all__ = ["choose_gl", "mujoco"]
