"""Messages and services: every field carries its unit, and the generated classes have exactly these fields."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted([*ROOT.glob("msg/*.msg"), *ROOT.glob("srv/*.srv")])
FIELD = re.compile(r"^(?P<type>[\w/]+)(\[(<=)?\d*\])?\s+(?P<name>\w+)(=\S+)?\s*(?P<comment>#.*)?$")
UNIT = re.compile(r"^# \[(-|id|s|px|rad|rad/s|rad, grippers m|rad/s, grippers m/s)\] \S")


def declarations(path: Path) -> list[re.Match[str]]:
    found = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.strip() and not line.startswith("#") and line != "---":
            match = FIELD.match(line)
            assert match, f"{path.name}: {line}"
            found.append(match)
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_field_has_its_unit_in_a_comment(path: Path) -> None:
    for field in declarations(path):
        assert UNIT.match(field["comment"] or ""), f"{path.name}: {field[0]}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_interface_says_what_it_is_for(path: Path) -> None:
    assert re.match(r"# \S.{20,}", path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", [path for path in FILES if path.suffix == ".msg"], ids=lambda path: path.name)
def test_the_generated_class_has_the_fields_of_the_file(path: Path) -> None:
    module = pytest.importorskip("starry_ros.msg", reason="messages are not built: make setup, or colcon build")
    kind = getattr(module, path.stem)
    names = [field["name"] for field in declarations(path) if not field["name"].isupper()]
    assert list(kind.get_fields_and_field_types()) == names


@pytest.mark.parametrize("path", [path for path in FILES if path.suffix == ".srv"], ids=lambda path: path.name)
def test_the_generated_service_has_the_fields_of_the_file(path: Path) -> None:
    module = pytest.importorskip("starry_ros.srv", reason="services are not built: make setup, or colcon build")
    kind = getattr(module, path.stem)
    names = [field["name"] for field in declarations(path)]
    request, response = (list(part.get_fields_and_field_types()) for part in (kind.Request, kind.Response))
    assert request + response == names


def test_modes_of_the_executor_are_numbered_without_gaps() -> None:
    messages = pytest.importorskip("starry_ros.msg", reason="messages are not built: make setup, or colcon build")
    names = ("DISARMED", "HOLD", "RUN", "SLOW", "STOP", "FAULT")
    assert [getattr(messages.ExecutorStatus, name) for name in names] == list(range(6))


def test_no_python_module_hides_the_generated_ones() -> None:
    package = importlib.import_module("starry_ros")
    for folder in package.__path__:
        assert not (Path(folder) / "msg.py").exists()
        assert not (Path(folder) / "srv.py").exists()
