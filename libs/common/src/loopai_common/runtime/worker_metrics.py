"""``/metrics`` of a service that runs in several workers: whichever of them is asked shows the sums over all.

Each worker answers its siblings on a unix socket in the parent's private directory. It writes down what it tells
before it tells it, and the next worker of its seat begins with what was written: a counter that was once seen never
falls, even when its worker was killed (a fall means a restart to Prometheus, and ``rate()`` would show a peak).
"""

import asyncio
from collections.abc import AsyncIterator, Collection, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import msgspec
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from loopai_common.runtime.logging import get_logger
from loopai_common.runtime.metric_merging import Family, Sample, labelled, lasting, merge
from loopai_common.runtime.workers import Worker

MISSING: Final = "loopai_workers_missing"

_ANSWER_SECONDS: Final = 1.0

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[Family]).decode

log = get_logger()


class Siblings:
    """The metrics of this worker and of its siblings.

    ``highest`` names the gauges of which the highest value over the workers is shown; others add up.
    """

    def __init__(self, worker: Worker, registry: CollectorRegistry, *, highest: Collection[str] = ()) -> None:
        self._worker = worker
        self._registry = registry
        self._highest = highest
        self._before: list[Family] = []

    @asynccontextmanager
    async def told(self) -> AsyncIterator[None]:
        """While this is open, siblings are answered; what this worker counted is kept at the end."""
        self._before = self._written(self._worker.seat)
        address = self._socket(self._worker.seat)
        address.unlink(missing_ok=True)  # of a predecessor that was killed
        server = await asyncio.start_unix_server(self._answer, address)
        try:
            yield
        finally:
            server.close()
            self._write()

    async def exposition(self) -> bytes:
        """All workers' metrics in Prometheus's text format. Takes a second at most, however many do not answer."""
        others = [seat for seat in range(self._worker.count) if seat != self._worker.seat]
        answers = await asyncio.gather(*(self._ask(seat) for seat in others))
        processes = [self._write()]
        missing = 0
        for seat, answer in zip(others, answers, strict=True):
            missing += answer is None
            processes.append(self._written(seat) if answer is None else answer)
        gauge = Family(
            MISSING,
            "gauge",
            "Workers that did not answer; of them, counters are shown as they last told them.",
            [Sample(MISSING, (), float(missing))],
        )
        return generate_latest(_Shown([*merge(processes, highest=self._highest), gauge]))

    async def _ask(self, seat: int) -> list[Family] | None:
        """What a sibling tells; ``None`` when it does not answer, which one that is being started again cannot."""
        try:
            async with asyncio.timeout(_ANSWER_SECONDS):
                reader, writer = await asyncio.open_unix_connection(self._socket(seat))
                try:
                    return _decode(await reader.read())
                finally:
                    writer.close()
        except (OSError, msgspec.MsgspecError):
            return None

    async def _answer(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            writer.write(_encode(self._write()))
            async with asyncio.timeout(_ANSWER_SECONDS):
                await writer.drain()
        except OSError as error:
            log.warning("metrics_not_told", reason=type(error).__name__)
        finally:
            writer.close()

    def _write(self) -> list[Family]:
        """This worker's metrics with those of its predecessors, written down."""
        own = labelled(_families(self._registry), str(self._worker.seat))
        told = merge([own, self._before], highest=self._highest)
        file = self._file(self._worker.seat)
        draft = file.with_suffix(".draft")
        try:
            draft.write_bytes(_encode(told))
            draft.replace(file)
        except OSError as error:
            log.warning("metrics_not_written", reason=error.strerror)
        return told

    def _written(self, seat: int) -> list[Family]:
        """What the workers of a seat counted, as far as they told it."""
        try:
            return lasting(_decode(self._file(seat).read_bytes()))
        except FileNotFoundError:
            return []

    def _file(self, seat: int) -> Path:
        return self._worker.directory / f"{seat}.metrics"

    def _socket(self, seat: int) -> Path:
        return self._worker.directory / f"{seat}.sock"


class _Shown(Collector):
    """Families as the text format's writer wants them."""

    def __init__(self, families: list[Family]) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        for family in self._families:
            metric = Metric(family.name, family.documentation, family.type)
            for sample in family.samples:
                metric.add_sample(sample.name, dict(sample.labels), sample.value)
            yield metric


def _families(registry: CollectorRegistry) -> list[Family]:
    return [
        Family(
            metric.name,
            metric.type,
            metric.documentation,
            [Sample(s.name, tuple(sorted(s.labels.items())), float(s.value)) for s in metric.samples],
        )
        for metric in registry.collect()
    ]
