"""What stands in the simulated cell, as MJCF files that are joined to scenes."""

from __future__ import annotations

from pathlib import Path

from starry_ros.errors import ContractError
from starry_ros.kinematics.backend import mujoco

ASSET_DIR = Path(__file__).parent / "assets"


def compile_scene(scene: str, base: Path = ASSET_DIR / "cell.xml") -> mujoco.MjModel:
    """The model of a scene such as `cell+tray+clutter`: the cell's file with further asset files."""
    names = scene.split("+")[1:]
    files = {path.name: path.read_bytes() for path in base.parent.glob("*.xml")}
    missing = sorted(f"{name}.xml" for name in names if f"{name}.xml" not in files)
    if missing:
        raise ContractError(str(base.parent), f"has no {missing}", expected=sorted(files))
    parts = "".join(f'<include file="{name}"/>' for name in (base.name, *(f"{name}.xml" for name in names)))
    return mujoco.MjModel.from_xml_string(f"<mujoco>{parts}</mujoco>", files)
