"""What a user can choose from: engines, planning modes, types of weights. Imports nothing heavy."""

from __future__ import annotations

from enum import StrEnum

RUNTIMES = ("auto", "torch", "onnxruntime", "openvino", "tensorrt")
WEIGHT_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
CACHES = ("auto", *WEIGHT_BYTES)
"""Types that the keys and values of the history are kept in; `auto` is that of the weights."""


class PlanMode(StrEnum):
    """When and from what plans are made; `planner` says what each does."""

    SYNC = "sync"
    ASYNC_NAIVE = "async_naive"
    ASYNC_GROUNDED = "async_grounded"


class SpliceMethod(StrEnum):
    """How a new chunk goes on from the last one; `auto` is trained_prefix if the model can, else put_back."""

    AUTO = "auto"
    TRAINED_PREFIX = "trained_prefix"
    GUIDED = "guided"
    PUT_BACK = "put_back"
    LINEAR_BLEND = "linear_blend"
    HARD_SWITCH = "hard_switch"
