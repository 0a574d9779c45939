"""Tools of tests that train in processes of their own: quick to start, since the server that forks them has PyTorch."""

from __future__ import annotations

import argparse
import multiprocessing
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
from test_training_units import narrow_presets
from wam_kit import LetterEncoder

from starry_ros.training import early
from starry_ros.training.arguments import add_train_command_arguments

PRELOADED = ["torch._dynamo", "starry_ros.training.train", "pytest"]
"""What takes seconds to import; optimisers import PyTorch's compiler."""


def start(work: Callable[..., None], *arguments: Any) -> BaseProcess:
    """A process that does some work of a module."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    process = context.Process(target=work, args=arguments)
    process.start()
    return process


def narrow_process() -> pytest.MonkeyPatch:
    """Let this process know the narrow presets and no text encoder."""
    patch = pytest.MonkeyPatch()
    narrow_presets(patch)
    patch.setattr(early, "load_text_encoder", lambda name, tokens: LetterEncoder())
    return patch


def arguments(data: Path, out: Path, model: Path, *words: str) -> argparse.Namespace:
    """Those of `starry train` on the processor with the narrow preset."""
    parser = argparse.ArgumentParser()
    add_train_command_arguments(parser)
    given = ["--data", str(data), "--out", str(out), "--autoencoder", str(model)]
    return parser.parse_args([*given, "--preset", "narrow", "--device", "cpu", *words])
