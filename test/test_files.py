"""Files that are there whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from starry_ros.files import write_text


def test_what_cannot_be_written_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "meta.json"
    write_text(path, "old")
    (tmp_path / ".meta.json.partial").mkdir()  # where the new text would go first
    with pytest.raises(OSError, match="partial"):
        write_text(path, "new")
    assert path.read_text() == "old"


def test_text_takes_the_place_of_what_was_there_and_nothing_is_left_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "meta.json"
    for text in ("old", "é ✓\n"):
        write_text(path, text)
        assert path.read_bytes() == text.encode("utf-8")
    assert list(tmp_path.iterdir()) == [path]
