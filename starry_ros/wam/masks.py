"""Who sees whom: the visibility tables of both couplings, the one place where they are written.

`VISIBLE` is intent-causal (AIM equation (10) and its table): language reaches actions only by way of future frames and
the value map. `VISIBLE_JOINTLY` is STARRY's joint attention: all streams see each other, and only the video stream
reads the sentence. `VISIBLE_BY_VIDEO` is the ablation of the value path: actions read the future frames themselves.
Observed frames and executed actions are encoded slot by slot, each seeing only itself: then a cached slot depends on
nothing that may be evicted, and no query sees a key through an observed token that the table hides from it.
"""

from __future__ import annotations

PAST_FRAMES = "past_frames"
CURRENT_FRAME = "current_frame"
PAST_ACTIONS = "past_actions"
LANGUAGE = "language"
FUTURE_FRAMES = "future_frames"
VALUE = "value"
ACTION = "action"

KEYS = (PAST_FRAMES, CURRENT_FRAME, PAST_ACTIONS, LANGUAGE, FUTURE_FRAMES, VALUE, ACTION)

VISIBLE: dict[str, tuple[str, ...]] = {
    FUTURE_FRAMES: (PAST_FRAMES, CURRENT_FRAME, PAST_ACTIONS, LANGUAGE, FUTURE_FRAMES),
    VALUE: (PAST_FRAMES, CURRENT_FRAME, FUTURE_FRAMES, VALUE),
    ACTION: (CURRENT_FRAME, PAST_ACTIONS, VALUE, ACTION),
}

_ALL_BUT_LANGUAGE = (PAST_FRAMES, CURRENT_FRAME, PAST_ACTIONS, FUTURE_FRAMES, VALUE, ACTION)
VISIBLE_JOINTLY: dict[str, tuple[str, ...]] = {
    FUTURE_FRAMES: (*_ALL_BUT_LANGUAGE, LANGUAGE), VALUE: _ALL_BUT_LANGUAGE, ACTION: _ALL_BUT_LANGUAGE,
}

VISIBLE_BY_VIDEO: dict[str, tuple[str, ...]] = {**VISIBLE, ACTION: (CURRENT_FRAME, PAST_ACTIONS, FUTURE_FRAMES, ACTION)}

TABLES = {"intent_causal": VISIBLE, "joint": VISIBLE_JOINTLY}
BY_INTENT = {"value": VISIBLE, "blind": VISIBLE, "video": VISIBLE_BY_VIDEO}
"""Tables of the intent-causal coupling, by the configuration's `intent`."""


def reaches(query: str, table: dict[str, tuple[str, ...]] = VISIBLE) -> frozenset[str]:
    """Every group that can influence `query`, directly or by way of other queries (the table's transitive closure)."""
    found: set[str] = set()
    frontier = [query]
    while frontier:
        for key in table.get(frontier.pop(), ()):
            if key not in found:
                found.add(key)
                frontier.append(key)
    return frozenset(found)
