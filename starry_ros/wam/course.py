"""What the executor says that it commands: the plans as limits, joins and stops have made them.

A plan is a wish. The executor delays one that is too fast, joins it to the motion it finds, slows down, stops short of
borders. Whoever takes the wish for the deed is a tenth to half a second ahead of the arms, and plans from there.

Shapes: K steps of a course, J joints.
"""

from __future__ import annotations

from collections import deque

from starry_ros.types import F64, ActionChunk

REMEMBERED = 128
"""Courses change with every plan, and every period while the executor looks for arms that do not follow."""


class Courses:
    """The newest courses. One holds from its start until the next one's, and its last step for ever.

    `expected`: an executor is there that tells them, so that before the first one nothing is commanded.
    """

    def __init__(self) -> None:
        self._courses: deque[ActionChunk] = deque(maxlen=REMEMBERED)
        self.expected = False

    @property
    def awaited(self) -> bool:
        """Whether the first one has not come yet, but will."""
        return self.expected and not self._courses

    def add(self, course: ActionChunk) -> None:
        """Hear of a course; one that starts before the newest one is late, and forgotten."""
        if not self._courses or course.start_ns >= self._courses[-1].start_ns:
            self._courses.append(course)

    def forget(self) -> None:
        """Nothing is known."""
        self._courses.clear()

    @property
    def end_ns(self) -> int:
        """When what the newest course says is over, after which the arms stand; 0 before the first course."""
        return self._courses[-1].end_ns if self._courses else 0

    def at(self, time_ns: int) -> F64 | None:
        """What was or will be commanded [J] at a time, between steps by interpolation; None before the first course."""
        course = next((course for course in reversed(self._courses) if course.start_ns <= time_ns), None)
        if course is None:
            return None
        steps, last = (time_ns - course.start_ns) / course.step_ns, len(course.positions_KJ) - 1
        before = min(int(steps), last)
        share, after = min(steps - before, 1.0), min(before + 1, last)
        position_J: F64 = (1 - share) * course.positions_KJ[before] + share * course.positions_KJ[after]
        return position_J
