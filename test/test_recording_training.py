"""What `starry record` writes is what `starry data import` reads and `starry train` learns from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="messages are serialised by ROS 2: make setup")

from test_training_units import narrow_presets, prepare
from wam_kit import make_checkpoint

from starry_ros.cli import main
from starry_ros.data.store import read_episode, sentences
from starry_ros.recording.reader import Recording
from starry_ros.training.loop import run
from starry_ros.wam.checkpoint import load_checkpoint, save_checkpoint


def test_a_recorded_session_is_imported_found_sound_and_trained_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path, data, model = tmp_path / "session.mcap", tmp_path / "data", tmp_path / "model"
    assert main(["record", "--simulate", str(path), "--episodes", "2", "--time-limit", "1.2"]) == 0
    assert main(["data", "import", str(path), "--out", str(data)]) == 0
    assert main(["data", "check", str(data)]) == 0
    assert "2 sound episodes" in capsys.readouterr().out

    arrays, second = (read_episode(data / "episodes" / f"00000{index}.npz") for index in range(2))
    assert np.abs(second["position_TJ"][0] - arrays["position_TJ"][0]).max() < 0.01, "both begin at home"
    assert max(np.abs(np.diff(each["position_TJ"], axis=0)).max() for each in (arrays, second)) < 0.2, "none jumps"
    assert np.ptp(second["position_TJ"], axis=0).max() > 0.1
    served = {bytes(heard.message.data) for heard in Recording(path).messages("canvas")}
    assert {canvas.tobytes() for canvas in arrays["canvas_THWC"]} <= served, "what the model saw is what is learned"
    assert len(arrays["time_s_T"]) >= 14
    assert set(sentences(arrays)) == {"put the red block on the pad"}
    lead = np.abs(arrays["command_TJ"] - arrays["position_TJ"]).max()
    assert 0 < lead < 0.1 < np.ptp(arrays["position_TJ"], axis=0).max(), "commands lead joints that move"

    narrow_presets(monkeypatch)
    save_checkpoint(model, make_checkpoint())
    trainer = prepare(data, tmp_path / "run", model, "--steps", "2")
    run(trainer, 2, None)
    saved = load_checkpoint(tmp_path / "run" / "checkpoint")
    assert saved.training["steps_done"] == 2
    assert all(value.isfinite().all() for value in saved.model.values())
