"""What stops a training that has come apart before weights that are no numbers are saved over good ones."""

from __future__ import annotations

import math
from collections.abc import Iterable

from torch import nn

from starry_ros.errors import TrainingError

OTHER_RATE = "check the data with `starry data check`; if they are sound, train anew with a lower --learning-rate"
OTHER_SEED = "check the data with `starry data check`; if they are sound, train anew with another --seed"


def clip_gradients(
    parameters: Iterable[nn.Parameter], most: float, loss: float, where: str, fix: str = OTHER_RATE
) -> float:
    """Clip gradients to a norm of `most`; returns the norm that they had. Weights stay as they are.

    TrainingError, which says `where` and the `fix`, if the loss or the norm is not finite.
    """
    norm = float(nn.utils.clip_grad_norm_(list(parameters), most))
    if not math.isfinite(norm + loss):
        raise TrainingError(where, "the training has come apart; what was saved before is still there",
                            got=f"loss {loss}, gradient norm {norm}", expected="finite numbers", fix=fix)
    return norm
