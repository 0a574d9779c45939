"""Results as tables on the screen and as JSON: {"meta": {...}, "rows": [...]}. Nothing else writes a report."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import math
import os
import platform
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from starry_ros.errors import ConfigError
from starry_ros.files import write_text
from starry_ros.paths import share_dir
from starry_ros.types import Record

EVALUATION_COLUMNS = ("policy", "task", "setting", "episodes", "success", "low", "high")
BENCH_COLUMNS = ("name", "value", "unit", "baseline", "ratio")
LIBRARIES = (
    "numpy", "torch", "mujoco", "onnxruntime", "openvino", "ros-jazzy-rclpy", "ruckig", "opencv-python-headless",
)
_Z_95 = 1.959963984540054


def wilson(successes: int, n: int, z: float = _Z_95) -> tuple[float, float]:
    """Score interval of a success rate (Wilson 1927), 95 % by default; (0, 1) when nothing was tried."""
    if not 0 <= successes <= n:
        raise ValueError(f"successes {successes} not in 0..{n}")
    if n == 0:
        return 0.0, 1.0
    rate, z2 = successes / n, z * z
    centre = (rate + z2 / (2 * n)) / (1 + z2 / n)
    half = z / (1 + z2 / n) * math.sqrt(rate * (1 - rate) / n + z2 / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)


def percentile(samples: Sequence[float], percent: float) -> float | None:
    """Percentile of the samples, None without any."""
    return float(np.percentile(samples, percent)) if samples else None


def evaluation_row(policy: str, task: str, setting: str, successes: int, episodes: int, **more: Any) -> Record:
    """One row of `eval` or `demo`: the success rate with its 95 % interval."""
    low, high = wilson(successes, episodes)
    success = successes / episodes if episodes else 0.0
    row = dict(zip(EVALUATION_COLUMNS, (policy, task, setting, episodes, success, low, high), strict=True))
    return {**row, **more}


def bench_row(
    name: str, value: float, unit: str, baseline: float | None = None, *, more_is_better: bool = False, **more: Any
) -> Record:
    """One row of `bench`. `ratio` says how many times better than the baseline the value is."""
    better, worse = (value, baseline) if more_is_better else (baseline, value)
    ratio = better / worse if better is not None and worse else None
    return {"name": name, "value": value, "unit": unit, "baseline": baseline, "ratio": ratio, **more}


def add_json_argument(parser: argparse.ArgumentParser) -> None:
    """The argument of every verb that reports."""
    parser.add_argument(
        "--json", metavar="FILE", type=_writable_file, help="also write the rows and their conditions to FILE"
    )


def _writable_file(text: str) -> Path:
    """Found out before the measurement, not after it."""
    path = Path(text)
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    if path.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
        raise argparse.ArgumentTypeError(f"{text} cannot be written")
    return path


def write_report(path: str | Path, rows: Sequence[Mapping[str, Any]], **meta: Any) -> None:
    """Write rows with the conditions of the run; `meta` adds the seed and whatever else is needed to repeat it."""
    path = Path(path)
    report = _plain({"meta": {**conditions(), **meta}, "rows": list(rows)})
    text = json.dumps(report, indent=1, allow_nan=False) + "\n"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, text)
    except OSError as error:
        raise ConfigError(str(path), "cannot be written", got=error.strerror, fix="choose another file") from error


def conditions() -> dict[str, Any]:
    """Machine, versions, commit, command and time of this run."""
    return {
        "machine": machine(), "versions": versions(), "commit": commit(), "seed": None,
        "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def machine() -> dict[str, Any]:
    """Processor, usable cores, memory and graphics processor."""
    return {
        "system": f"{platform.system()} {platform.release()}", "architecture": platform.machine(),
        "processor": _first_match("/proc/cpuinfo", r"model name\s*: (.*)"), "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1), "gpu": gpu(),
    }


def gpu() -> str | None:
    """Name of the first NVIDIA processor, or None."""
    return _output("nvidia-smi", "--query-gpu=name", "--format=csv,noheader")


def versions() -> dict[str, str]:
    """Versions of Python, this package and the libraries that figures depend on."""
    found = {"python": platform.python_version(), "starry_ros": package_version()}
    for name in LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def package_version() -> str:
    """Version of this package, from its manifest."""
    return _first_match(share_dir() / "package.xml", r"<version>(.*)</version>") or "unknown"


def commit() -> str | None:
    """Commit of the checkout that runs, with +changes when files differ from it; None outside a checkout."""
    if not (share_dir() / ".git").exists():
        return None
    name = _output("git", "-C", str(share_dir()), "rev-parse", "--short=12", "HEAD")
    changed = name and _output("git", "-C", str(share_dir()), "status", "--porcelain", "--untracked-files=no")
    return f"{name}+changes" if changed else name


def print_table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str] = ()) -> None:
    """Rows as aligned columns; without `columns`, those of the first row."""
    if not rows:
        return
    columns = list(columns) or list(rows[0])
    lines = [columns, *([_cell(row.get(column)) for column in columns] for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(columns))]
    for line in lines:
        print("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip())


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _plain(value: Any) -> Any:
    """What JSON can hold: numpy numbers and arrays become plain, non-finite numbers null, paths text."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)


def _first_match(path: str | Path, pattern: str) -> str | None:
    try:
        found = re.search(pattern, Path(path).read_text(encoding="utf-8", errors="replace"))
    except OSError:
        return None
    return found[1].strip() if found else None


def _output(*command: str) -> str | None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    lines = done.stdout.strip().splitlines()
    return lines[0] if lines and done.returncode == 0 else None
