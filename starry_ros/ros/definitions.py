"""Message types by name: their Python class, and the text of their definition as MCAP wants it."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from starry_ros import __file__ as package_file
from starry_ros.errors import RuntimeUnavailable

_PLAIN = re.compile(r"^(bool|byte|char|w?string|u?int(8|16|32|64)|float(32|64))\b")
_FIELD = re.compile(r"^([A-Za-z][\w/]*)(<=\d+)?(\[[^\]]*\])?\s+\w+")


def message_class(name: str) -> Any:
    """The Python class of `package/msg/Type`."""
    package, folder, kind = name.split("/")
    return getattr(importlib.import_module(f"{package}.{folder}"), kind)


def full_definition(name: str) -> str:
    """Text of a message definition followed by those of every message it contains, as MCAP wants it."""
    texts = {name: _definition(name)}
    pending = [name]
    while pending:
        for used in _used_types(pending[0], texts[pending[0]]):
            if used not in texts:
                texts[used] = _definition(used)
                pending.append(used)
        pending.pop(0)
    parts = [texts.pop(name)]
    parts += [f"MSG: {used.replace('/msg/', '/')}\n{text}" for used, text in texts.items()]
    return ("\n" + "=" * 80 + "\n").join(parts)


def _used_types(owner: str, text: str) -> Iterator[str]:
    for line in text.splitlines():
        field = _FIELD.match(line.split("#")[0].strip())
        if field is None or _PLAIN.match(field[1]):
            continue
        package, _, kind = field[1].rpartition("/")
        yield f"{package.removesuffix('/msg') or owner.split('/')[0]}/msg/{kind}"


def _definition(name: str) -> str:
    for prefix in _prefixes(name.split("/")[0]):
        path = prefix / "share" / f"{name}.msg"
        if path.is_file():
            return path.read_text(encoding="utf-8")
    raise RuntimeUnavailable("recorder", f"the definition of {name} is not installed", fix="install its share folder")


def _prefixes(package: str) -> Iterator[Path]:
    """Folders that may hold share/<package>: above its Python module, the interpreter's, above this package."""
    module_file = importlib.import_module(package).__file__ or ""
    yield from Path(module_file).resolve().parents
    yield Path(sys.prefix)
    yield from Path(package_file).resolve().parents
