"""What became of many requests, in little memory: how many had which end, and a histogram of latencies."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from math import exp, floor, log
from typing import Any, Self

_STEPS = 200  # for each factor of e: a percentile is within 0.25 % of the latency that it stands for
_SHORTEST_SECONDS = 1e-7


@dataclass(frozen=True, slots=True)
class Tally:
    """``ends`` counts answers by their status, and what was not answered by a word; latencies are those of 200."""

    ends: Counter[str] = field(default_factory=Counter)
    latencies: Counter[int] = field(default_factory=Counter)

    def add(self, end: str, seconds: float) -> None:
        """Counts what became of a request, after how long."""
        self.ends[end] += 1
        if end == "200":
            self.latencies[floor(log(max(seconds, _SHORTEST_SECONDS)) * _STEPS)] += 1

    @property
    def answers(self) -> int:
        """How many were answered, with whatever."""
        return sum(count for end, count in self.ends.items() if end.isdigit())

    @property
    def successes(self) -> int:
        """How many were answered with 200."""
        return self.ends["200"]

    @property
    def errors(self) -> int:
        """How many were not answered with 200."""
        return self.ends.total() - self.successes

    def percentile_ms(self, share: float) -> float:
        """The latency that this share of the successes does not exceed; 0 where there are none."""
        wanted = share * self.latencies.total()
        seen = 0
        for step in sorted(self.latencies):
            seen += self.latencies[step]
            if seen >= wanted:
                return exp((step + 0.5) / _STEPS) * 1000
        return 0.0

    def as_json(self) -> dict[str, Any]:
        """What :meth:`of` reads."""
        return {"ends": self.ends, "latencies": self.latencies}

    @classmethod
    def of(cls, parts: Iterable[dict[str, Any]]) -> Self:
        """The sum of tallies of several processes."""
        whole = cls()
        for part in parts:
            whole.ends.update(part["ends"])
            whole.latencies.update({int(step): count for step, count in part["latencies"].items()})
        return whole
