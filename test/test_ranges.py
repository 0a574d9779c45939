"""Numbers on the command line that lie outside their range."""

import math

import pytest

from starry_ros.cli import main
from starry_ros.ranges import COUNT, NOT_NEGATIVE, PORT, POSITIVE, SHARE, WHOLE

TRAIN = ("train", "--data", "d", "--out", "o", "--autoencoder", "a")


@pytest.mark.parametrize("command", [
    ("eval", "--replan", "0"), ("eval", "--latency", "-1"), ("eval", "--episodes", "0"), ("eval", "--seed", "-1"),
    ("eval", "--latency", "nan"), ("data", "generate", "--out", "o", "--looks", "0"),
    (*TRAIN, "--batch", "0"), (*TRAIN, "--save-every", "0"), (*TRAIN, "--seed", "-1"), (*TRAIN, "--tint", "1.1"),
    ("train-rl", "--out", "o", "--batch", "0"), ("train-rl", "--out", "o", "--spread", "0"),
    ("train-rl", "--out", "o", "--seed", "-1"), ("train-rl", "--out", "o", "--learning-rate", "inf"),
    ("demo", "--episodes", "0"), ("view", "--port", "65536"), ("fuzz", "executor", "--chunks", "0"),
    ("chaos", "--times", "1.5"),
], ids=" ".join)
def test_a_number_out_of_range_ends_the_command_with_its_options_name(capsys, command):
    with pytest.raises(SystemExit) as end:
        main(list(command))
    assert end.value.code == 2
    error = capsys.readouterr().err
    assert f"argument {command[-2]}: " in error
    assert command[-1] in error


@pytest.mark.parametrize(("number", "text", "value"), [
    (COUNT, "1", 1), (WHOLE, "0", 0), (NOT_NEGATIVE, "0", 0.0), (POSITIVE, "1e-9", 1e-9), (SHARE, "1", 1.0),
    (PORT, "65535", 65_535),
])
def test_the_ends_of_a_range_belong_to_it(number, text, value):
    assert number(text) == value
    assert math.isfinite(number(text))
