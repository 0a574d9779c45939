"""Pictures in docs/: each is small, is shown on a page, and says which command makes it."""

from __future__ import annotations

import argparse
import re
import shlex
from pathlib import Path

import pytest

from starry_ros.cli import build_parser

ROOT = Path(__file__).parents[1]
SHOWN = (".png", ".jpg", ".gif", ".html", ".mp4", ".svg")
PICTURES = sorted(path for path in (ROOT / "docs").rglob("*") if path.suffix in SHOWN)
PAGES = {path: path.read_text(encoding="utf-8") for path in (ROOT / "README.md", *(ROOT / "docs").glob("*.md"))}
MADE_BY = dict(re.findall(r"^\| `(docs/\S+)` \| `(.*)` \|$", PAGES[ROOT / "docs" / "seeing.md"], re.MULTILINE))


@pytest.mark.parametrize("picture", PICTURES, ids=lambda path: path.name)
def test_a_picture_is_small_shown_and_made_by_a_command(picture: Path) -> None:
    assert picture.stat().st_size < 300_000
    assert any(f"]({name})" in text for text in PAGES.values() for name in (picture.name, f"docs/{picture.name}"))
    command = MADE_BY[f"docs/{picture.name}"]
    assert f"docs/{picture.name}" in command


def test_the_commands_that_make_pictures_can_be_typed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert {Path(name).name for name in MADE_BY} == {picture.name for picture in PICTURES}
    for command in MADE_BY.values():
        for part in re.split(r"&&|&", command):
            words = shlex.split(part)
            if words[0] == "starry":
                parser, verb = build_parser(words[1:])
                assert verb is not None
                assert isinstance(parser.parse_args(words[1:]), argparse.Namespace)
