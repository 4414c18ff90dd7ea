"""When requests are due: rates that stay or change evenly, stage after stage."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import sqrt


@dataclass(frozen=True, slots=True)
class Stage:
    """``seconds`` in which the rate goes evenly from one to the other, in requests a second."""

    seconds: float
    start_rate: float
    end_rate: float

    @property
    def requests(self) -> float:
        """How many become due."""
        return self.seconds * (self.start_rate + self.end_rate) / 2


class Schedule:
    """The requests of some stages by their number, from 0. Times are seconds since the start."""

    def __init__(self, stages: Sequence[Stage]) -> None:
        self.seconds = sum(stage.seconds for stage in stages)
        self._stages = stages
        self._starts = list(accumulate((stage.seconds for stage in stages), initial=0.0))
        self._firsts = list(accumulate((stage.requests for stage in stages), initial=0.0))
        self.requests = max(1, int(self._firsts[-1]))

    def stage(self, number: int) -> int:
        """The stage in which a request is due."""
        return min(bisect_right(self._firsts, number), len(self._stages)) - 1

    def stage_at(self, seconds: float) -> int:
        """The stage that is on then."""
        return min(bisect_right(self._starts, seconds), len(self._stages)) - 1

    def due(self, number: int) -> float:
        """When a request is due."""
        at = self.stage(number)
        stage, left = self._stages[at], number - self._firsts[at]
        growth = (stage.end_rate - stage.start_rate) / stage.seconds
        # The time at which a rate r + g t has made n requests due, in the form that g = 0 does not divide by.
        speed = stage.start_rate + sqrt(max(0.0, stage.start_rate**2 + 2 * growth * left))
        return self._starts[at] + (2 * left / speed if speed else 0.0)

    def reached(self, seconds: float) -> int:
        """How many requests are due by then."""
        if seconds >= self.seconds:
            return self.requests
        at = self.stage_at(seconds)
        stage, passed = self._stages[at], seconds - self._starts[at]
        rate = stage.start_rate + (stage.end_rate - stage.start_rate) * passed / stage.seconds / 2
        return min(self.requests, int(self._firsts[at] + rate * passed) + 1)
