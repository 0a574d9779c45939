"""What `starry model adopt` leaves behind when the model does not fit the robot."""

from __future__ import annotations

import argparse
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from starry_ros.errors import ContractError
from starry_ros.training import adopt
from starry_ros.training.arguments import add_adopt_command_arguments


def refuse(*_: Any) -> None:
    raise ContractError("robot", "does not fit")


@pytest.mark.parametrize("before", [None, "what served until now"])
def test_a_model_that_does_not_fit_keeps_the_file_that_it_had(
    before: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    serving = tmp_path / "serving.json"
    if before is not None:
        serving.write_text(before)
    monkeypatch.setattr(adopt, "is_public", lambda folder: True)
    monkeypatch.setattr(adopt, "read_json", lambda path: {"q01": [0.0] * 30, "q99": [1.0] * 30})
    monkeypatch.setattr(adopt, "transformer_config", lambda *_: (SimpleNamespace(joints=30), "lingbot"))
    monkeypatch.setattr(adopt, "configure", refuse)
    parser = argparse.ArgumentParser()
    add_adopt_command_arguments(parser)
    with pytest.raises(ContractError):
        adopt.adopt_command(parser.parse_args([str(tmp_path), "--quantiles", "stat.json"]))
    assert (serving.read_text() if serving.exists() else None) == before
