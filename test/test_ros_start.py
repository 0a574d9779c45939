"""Ctrl-C while a node loads: quiet, whatever the library that it strikes makes of it."""

from __future__ import annotations

import subprocess
import sys

LOADING = """
import os, signal, time
from starry_ros.ros.start import ending_at_once
def load():
    try:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(5)
    except KeyboardInterrupt as error:
        raise ImportError("initialization failed") from error
with ending_at_once():
    load()
"""
LOADED = """
import os, signal, time
from starry_ros.ros.start import ending_at_once
with ending_at_once():
    pass
try:
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(5)
except KeyboardInterrupt:
    print("interrupted")
"""


def python(program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)


def test_ctrl_c_that_strikes_a_library_while_it_loads_is_quiet() -> None:
    run = python(LOADING)
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")


def test_ctrl_c_reaches_the_node_once_its_libraries_are_loaded() -> None:
    assert python(LOADED).stdout == "interrupted\n"
