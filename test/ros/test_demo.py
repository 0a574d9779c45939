"""`starry demo` from end to end with a session that needs no model: report, contact sheet and film."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import av
import cv2

from starry_ros.report import EVALUATION_COLUMNS

ROOT = Path(__file__).resolve().parents[2]
FAKE = str(Path(__file__).with_name("fake_world_action.py"))
DEMO = f"""
import sys
from starry_ros.ros import graph
program = graph._program
graph._program = lambda node: [sys.executable, {FAKE!r}] if node.name == "world_action" else program(node)
from starry_ros.cli import main
sys.exit(main(["demo", *sys.argv[1:]]))
"""


def demo(folder: Path, domain: int, *options: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "ROS_DOMAIN_ID": str(domain), "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-c", DEMO, "--out", str(folder), *options], cwd=ROOT, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
    )


def test_a_demo_writes_report_contact_sheet_and_film(tmp_path: Path) -> None:
    options = ["--episodes", "2", "--time-limit", "6", "--swap", "--swap-after", "1"]
    run = demo(tmp_path, 101, *options, "--json", str(tmp_path / "r.json"))
    text, _ = run.communicate(timeout=150)
    assert run.returncode == 1, text  # the fake session places nothing
    assert "missed: no episode succeeded" in text
    report = json.loads((tmp_path / "report.json").read_text())
    assert json.loads((tmp_path / "r.json").read_text())["rows"] == report["rows"]
    row = report["rows"][0]
    assert set(EVALUATION_COLUMNS) <= set(row)
    assert row["policy"] == "model"
    assert row["episodes"] == 2
    assert row["success"] == 0.0
    assert row["observation_age_p50_s"] > 0
    assert {"lost_head", "lost_left_wrist", "lost_right_wrist", "stall_share", "limit_share"} <= set(row)
    first = report["meta"]["episodes"][0]
    assert first["sentence"].count("->") == 1
    assert first["target"] not in first["sentence"].split("->")[0]
    sheet = cv2.imread(str(tmp_path / "contact_sheet.png"))
    assert sheet is not None
    assert sheet.std() > 20
    with av.open(str(tmp_path / "overlay.mp4")) as film:
        pictures = sum(1 for _ in film.decode(video=0))
        assert pictures == row["pictures"] > 10
        assert film.streams.video[0].width > 3 * 300


def test_ctrl_c_ends_a_demo_and_all_its_children(tmp_path: Path) -> None:
    run = demo(tmp_path, 100, "--episodes", "9")
    end_s = time.monotonic() + 60
    while not (tmp_path / "logs" / "world_action.log").exists() and time.monotonic() < end_s:
        time.sleep(0.1)
    time.sleep(3.0)
    run.send_signal(signal.SIGINT)
    text, _ = run.communicate(timeout=60)
    assert run.returncode == 130
    assert "Traceback" not in text
    for log in (tmp_path / "logs").iterdir():
        assert "Traceback" not in log.read_text()
        pid = int(log.read_text().split("process ")[1].split()[0])
        assert not Path(f"/proc/{pid}").exists(), f"{log.stem} is still there"


def test_a_model_that_does_not_load_ends_the_demo_with_its_message(tmp_path: Path) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text("{}")
    environment = {**os.environ, "ROS_DOMAIN_ID": "99", "PYTHONPATH": str(ROOT)}
    options = ["--model", str(tmp_path / "broken"), "--out", str(tmp_path)]
    command = [sys.executable, "-m", "starry_ros.cli", "demo", *options]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "world_action has ended" in done.stderr
    assert "config.json" in done.stderr
    assert "Traceback" not in done.stderr
