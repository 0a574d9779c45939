"""Pictures of played episodes, for the report of `starry eval`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np

from starry_ros.training.score import Score

FRAMES = 10


@dataclass(frozen=True)
class Strips:
    """A folder of pictures, one an episode. `loop` says how was planned, where episodes are played in several ways."""

    folder: Path
    loop: str = ""
    written: list[Path] = field(default_factory=list)

    def write(self, score: Score) -> None:
        """An episode's canvases side by side in one PNG, its sentence and outcome below; none of one without frames."""
        frames = score.result.frames
        if not frames:
            return
        chosen = [frames[i] for i in np.linspace(0, len(frames) - 1, min(FRAMES, len(frames))).round().astype(int)]
        row_HWC = np.concatenate(chosen, axis=1)
        strip = np.concatenate([row_HWC, np.zeros((20, *row_HWC.shape[1:]), np.uint8)])
        case, outcome = score.result.case, score.result.failure or "success"
        who = " ".join(filter(None, (score.policy, self.loop)))
        text = f"{who}, seed {case.seed}: {score.result.instruction} - {outcome}"
        cv2.putText(strip, text, (6, len(strip) - 6), cv2.FONT_HERSHEY_SIMPLEX, 0.42, (235, 235, 235), 1, cv2.LINE_AA)
        self.folder.mkdir(parents=True, exist_ok=True)
        end = "success" if score.result.success else "failure"
        parts = (score.policy, case.task, case.setting, case.kind, self.loop, f"{case.seed:04d}", end)
        path = self.folder / f"{'_'.join(filter(None, parts))}.png"
        cv2.imwrite(str(path), strip[..., ::-1])
        self.written.append(path)
