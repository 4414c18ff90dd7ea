"""The targets by name."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from tests.fuzz import fast_lane, frames, json_texts, parts, worker_pipe


@dataclass(frozen=True, slots=True)
class Target:
    """``fuzz`` raises when an input breaks a promise; ``seeds`` are what the search begins with."""

    fuzz: Callable[[bytes], None]
    seeds: Sequence[bytes]
    dictionary: Sequence[bytes]


TARGETS: Mapping[str, Target] = {
    module.__name__.rpartition(".")[2]: Target(module.fuzz, module.SEEDS, module.DICTIONARY)
    for module in (fast_lane, frames, json_texts, parts, worker_pipe)
}
