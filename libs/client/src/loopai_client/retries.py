"""When a call is tried again, and when its time is up: rules only, no I/O.

Tried again is what was never carried out (no connection, or refused before it began), and what may be carried out
twice without a difference. Pauses grow with full jitter up to a cap; a call has one deadline for all its attempts.
"""

import math
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Final

from loopai_client.errors import ApiError, LoopaiError, TimedOut, Unreachable

MAX_ATTEMPTS: Final = 4
FIRST_PAUSE_SECONDS: Final = 0.1
LONGEST_PAUSE_SECONDS: Final = 5.0

_REFUSED_BEFORE_IT_BEGAN = frozenset({"overloaded", "shutting_down"})


@dataclass(frozen=True, slots=True)
class Broken:
    """An attempt without an answer. ``sent`` is set when the server may have got the request."""

    why: str
    sent: bool
    timed_out: bool = False


class Attempts:
    """The attempts of one call, which have ``seconds`` in all, and ``patience_seconds`` each.

    ``repeatable``: carrying it out twice makes no difference.
    """

    def __init__(
        self,
        url: str,
        *,
        repeatable: bool,
        seconds: float,
        patience_seconds: float = math.inf,
        clock: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._url = url
        self._repeatable = repeatable
        self._patience = patience_seconds
        self._clock = clock
        self._chance = chance
        self._seconds = seconds
        self._deadline = clock() + seconds
        self._made = 0

    def attempt_seconds(self) -> float:
        """Begins an attempt, and says how long it may take; raises :class:`TimedOut` when no time is left."""
        self._made += 1
        left = self._left()
        if left <= 0:
            raise TimedOut(f"Loopai at {self._url} did not answer in time")
        return min(left, self._patience)

    def progressed(self) -> None:
        """The attempt got something done: what follows is counted anew, and has all of the time."""
        self._made = 0
        self._deadline = self._clock() + self._seconds

    def after(self, broken: Broken) -> float:
        """The pause before the next attempt; raises :class:`Unreachable` when there is none."""
        kind = TimedOut if broken.timed_out else Unreachable
        again = self._repeatable or not broken.sent
        hint = "" if broken.sent else ". Is it running? Start it with `loopai up`."
        error = kind(f"cannot reach Loopai at {self._url}: {broken.why}{hint}")
        return self._pause(error, self._backoff(), again=again)

    def after_refusal(self, error: ApiError, retry_after: str | None, now: datetime) -> float:
        """The pause before the next attempt; raises ``error`` when there is none.

        ``retry_after`` is the header's value; without it a server does not say that it is worth trying again.
        """
        asked = retry_after_seconds(retry_after, now)
        if asked is None:
            raise error
        never_begun = error.status == 429 or error.code in _REFUSED_BEFORE_IT_BEGAN
        again = error.status in {429, 503} and (self._repeatable or never_begun)
        return self._pause(error, asked + self._backoff(), again=again)

    def _backoff(self) -> float:
        doublings: int = max(0, self._made - 1)
        return self._chance() * min(FIRST_PAUSE_SECONDS * float(2**doublings), LONGEST_PAUSE_SECONDS)

    def _pause(self, error: LoopaiError, seconds: float, *, again: bool) -> float:
        if not again or self._made >= MAX_ATTEMPTS or seconds >= self._left():
            raise error
        return seconds

    def _left(self) -> float:
        return self._deadline - self._clock()


def retry_after_seconds(value: str | None, now: datetime) -> float | None:
    """What a ``Retry-After`` header asks for (RFC 9110, 10.2.3), ``None`` for none and for what cannot be read."""
    if value is None:
        return None
    if value.strip().isdecimal():
        return float(value)
    try:
        moment = parsedate_to_datetime(value)
        return max(0.0, (moment - now).total_seconds())
    except (ValueError, TypeError):
        return None
