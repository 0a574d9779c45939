"""What README and docs tell people to type and to open exists: verbs, options, files, links, targets, arguments."""

from __future__ import annotations

import argparse
import re
import shlex
from functools import cache
from pathlib import Path

import pytest

from starry_ros.cli import GROUPS, VERBS, build_parser
from starry_ros.ros.graph import ARGUMENTS

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "models" / "tiny" / "MODEL_CARD.md"]
CODE = re.compile(r"`([^`\n]+)`")
COMMAND = re.compile(r"(?:^|[\s;(|&]|--)starry ((?:[a-z][\w-]*)(?: [^#;|&)]*)?)")
FOLDERS = ("config/", "docs/", "launch/", "models/", "msg/", "srv/", "starry_ros/", "test/")
MADE = ("starry_ros/msg", "starry_ros/srv")
ids = [path.name for path in PAGES]


def snippets(page: Path) -> list[str]:
    """Lines of indented code, and what stands in back quotes."""
    text = page.read_text(encoding="utf-8").replace("\\\n", " ").replace("\\|", "|")
    lines = [line.strip() for line in text.splitlines() if line.startswith("    ")]
    return lines + CODE.findall("\n".join(line for line in text.splitlines() if not line.startswith("    ")))


def commands(page: Path) -> list[list[str]]:
    """Words after `starry`, comments off."""
    found = [m[1] for snippet in snippets(page) for m in COMMAND.finditer(snippet.split(" #")[0])]
    return [shlex.split(text, comments=True) for text in found]


@cache
def options(key: tuple[str, ...]) -> frozenset[str]:
    """Option strings of a verb."""
    parser: argparse.ArgumentParser = build_parser(list(key))[0]
    for word in key:
        subparsers = next(a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
        parser = subparsers.choices[word]
    return frozenset(text for action in parser._actions for text in action.option_strings)


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_every_command_exists_with_its_options(page: Path) -> None:
    for words in commands(page):
        if tuple(words[:1]) in {(group,) for group in GROUPS} and len(words) == 1:
            continue
        key = next((key for key in VERBS if tuple(words[: len(key)]) == key), None)
        assert key is not None, f"{page.name}: starry {' '.join(words)}"
        given = {word.partition("=")[0] for word in words if word.startswith("--")}
        assert given <= options(key) | {"--help"}, f"{page.name}: starry {' '.join(words)}"


def test_the_pages_are_looked_into() -> None:
    every = [" ".join(words) for page in PAGES for words in commands(page)]
    assert len(every) > 40
    assert "data import recordings/*.mcap --robot my_robot.yaml --out data/mine" in every


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_every_file_and_link_exists(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for link in re.findall(r"\]\(([^)#:\s]+)\)", text):
        assert (page.parent / link).exists(), f"{page.name}: {link}"
    for path in (snippet for snippet in CODE.findall(text) if snippet.startswith(FOLDERS)):
        plain = path.rstrip("/")
        if re.fullmatch(r"[\w./-]+", plain) and plain not in MADE:
            assert (ROOT / plain).exists(), f"{page.name}: {path}"


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_every_make_target_and_launch_argument_exists(page: Path) -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    known = {argument.name for argument in ARGUMENTS} | {"namespace"}
    for snippet in snippets(page):
        for target in re.findall(r"^make ([a-z]+)", snippet):
            assert target in targets, f"{page.name}: make {target}"
        if snippet.startswith("ros2 launch"):
            for name in re.findall(r"(\w+):=", snippet):
                assert name in known, f"{page.name}: {snippet}"


def test_the_readme_has_a_row_for_every_room() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    rows = set(re.findall(r"^\| `starry_ros/(\w+)/` \|", text, re.MULTILINE))
    assert rows == {path.parent.name for path in (ROOT / "starry_ros").glob("*/__init__.py")}


def test_every_page_is_reached_from_the_readme() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert [page.name for page in PAGES[1:] if str(page.relative_to(ROOT)) not in text] == []


NAMES = {"place": "place_block_pad", "stack": "stack_blocks_two", "hand over": "handover_block", "tray": "lift_tray",
         "two blocks": "place_dual_blocks", "drawer": "put_block_drawer", "button": "press_button"}


@pytest.mark.parametrize(("row", "column"), [("one shipped model", 4), ("the same, hard setting", 6)])
def test_the_readme_tells_the_successes_of_the_model_card(row: str, column: int) -> None:
    lines = PAGES[-1].read_text(encoding="utf-8").splitlines()
    cells = [line.split("|") for line in lines if re.match(r"\| `\w+` \| (right|both)", line)]
    card = {task[1].strip(" `"): float(task[column]) for task in cells}
    told = next(line for line in PAGES[0].read_text(encoding="utf-8").splitlines() if line.startswith(f"| {row}"))
    found = re.findall(rf"({'|'.join(NAMES)})[a-z ]* (\d\.\d\d)", told)
    assert {NAMES[name]: float(share) for name, share in found} == card
    assert f"mean {sum(card.values()) / len(card):.2f}" in told
