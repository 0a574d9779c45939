"""Where the package's own files are: robot contracts, node parameters, models, DDS profile.

The same look-up serves a checkout, a pip install and a colcon install, without ROS.
"""

from __future__ import annotations

from pathlib import Path

from starry_ros.errors import CheckpointError, ConfigError

_HERE = Path(__file__).resolve().parent


def share_dir() -> Path:
    """Folder that holds `config/`, `launch/` and `models/`: the checkout, or `share/starry_ros` of an install."""
    if (_HERE.parent / "package.xml").is_file():
        return _HERE.parent
    for prefix in _HERE.parents:
        if (prefix / "share" / "starry_ros" / "config").is_dir():
            return prefix / "share" / "starry_ros"
    raise ConfigError(str(_HERE), "the package's config folder is missing", fix="install starry_ros again")


def robot_file(robot: str) -> Path:
    """Path of a robot contract, given a name in `config/robots` or a path to a YAML file."""
    if robot.endswith((".yaml", ".yml")):
        return Path(robot).expanduser()
    path = share_dir() / "config" / "robots" / f"{robot}.yaml"
    if not path.is_file():
        raise ConfigError("robot", "is unknown", got=robot, expected=robot_names(), fix="give one, or a YAML file")
    return path


def robot_names() -> list[str]:
    """Names of the robot contracts that ship with the package."""
    return sorted(path.stem for path in (share_dir() / "config" / "robots").glob("*.yaml"))


def model_dir(model: str) -> Path:
    """Folder of a model, given a name in `models` or a path to a folder: one of ours, or one laid out as published."""
    shipped, given = share_dir() / "models" / model, Path(model).expanduser()
    for path in (given, shipped):
        if holds_model(path):
            return path
    raise CheckpointError("model", "is unknown", got=model, expected=model_names(), fix="give one, or a model folder")


def holds_model(path: Path) -> bool:
    """Whether a folder is that of a model: one of ours, or one laid out as published."""
    return (path / "config.json").is_file() or (path / "transformer" / "config.json").is_file()


def model_names() -> list[str]:
    """Names of the models that ship with the package."""
    return sorted(path.parent.name for path in (share_dir() / "models").glob("*/config.json"))
