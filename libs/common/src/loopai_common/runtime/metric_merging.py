"""The metrics of several processes as those of one: a pure function over Prometheus's families.

Counters and histograms add up. Gauges add up too (what waits, what is open), but for those that say the same in every
process, or the highest value so far: of these the highest is shown. Figures of the process itself are kept apart.
"""

from collections.abc import Collection, Iterable
from itertools import chain
from typing import Final

import msgspec

_PROCESS_FAMILIES: Final = ("process_", "python_gc_")
_CUMULATIVE: Final = frozenset({"counter", "histogram", "summary"})
_CREATED: Final = "_created"
_INFO: Final = "_info"

Labels = tuple[tuple[str, str], ...]
"""Names and values, in the order of the names."""


class Sample(msgspec.Struct, frozen=True, array_like=True):
    """One value; ``name`` has its suffix (``_total``, ``_bucket``, …)."""

    name: str
    labels: Labels
    value: float


class Family(msgspec.Struct, frozen=True, array_like=True):
    """One metric with all its samples; ``type`` as Prometheus names it."""

    name: str
    type: str
    documentation: str
    samples: list[Sample]


def merge(processes: Iterable[Iterable[Family]], *, highest: Collection[str] = ()) -> list[Family]:
    """One family for each name over the families of all processes, in the order of their first appearance.

    ``highest`` names gauges of which the highest value is shown, not the sum.
    """
    merged: dict[str, Family] = {}
    values: dict[str, dict[tuple[str, Labels], float]] = {}
    for family in chain.from_iterable(processes):
        merged.setdefault(family.name, family)
        found = values.setdefault(family.name, {})
        top = family.name in highest or family.name.endswith(_INFO)
        for sample in family.samples:
            key = (sample.name, sample.labels)
            before = found.get(key)
            if before is None:
                found[key] = sample.value
            elif sample.name.endswith(_CREATED):
                found[key] = min(before, sample.value)
            else:
                found[key] = max(before, sample.value) if top else before + sample.value
    return [
        Family(name, family.type, family.documentation, [Sample(*key, value) for key, value in values[name].items()])
        for name, family in merged.items()
    ]


def labelled(families: Iterable[Family], worker: str) -> list[Family]:
    """The same families; the figures of the process itself (memory, CPU, …) have the label ``worker``."""
    return [_with_label(family, ("worker", worker)) if _of_process(family.name) else family for family in families]


def lasting(families: Iterable[Family]) -> list[Family]:
    """What still counts when the process is gone: counters and histograms, without those of the process itself."""
    return [family for family in families if family.type in _CUMULATIVE and not _of_process(family.name)]


def _of_process(name: str) -> bool:
    return name.startswith(_PROCESS_FAMILIES)


def _with_label(family: Family, label: tuple[str, str]) -> Family:
    samples = [Sample(s.name, tuple(sorted((*s.labels, label))), s.value) for s in family.samples]
    return Family(family.name, family.type, family.documentation, samples)
