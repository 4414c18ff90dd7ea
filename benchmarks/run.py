"""``make bench``: starts the stack, runs the scenarios beside their baselines, prints tables and writes a JSON file."""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from benchmarks import load, machine, report
from benchmarks.bench import Bench, Figure, Measurement
from benchmarks.scenarios import (
    cache,
    cold_start,
    executor_alone,
    half_load,
    many_programs,
    repositories,
    sandbox,
    serialisation,
    single_program,
)
from tests.support.stack import LocalStack

# In this order: cold_start looks at a stack that has done nothing yet.
SCENARIOS: Mapping[str, Callable[[Bench], Iterator[Measurement | Figure]]] = {
    cold_start.NAME: cold_start.run,
    single_program.NAME: single_program.run,
    half_load.NAME: half_load.run,
    executor_alone.NAME: executor_alone.run,
    many_programs.NAME: many_programs.run,
    sandbox.NAME: sandbox.run,
    serialisation.NAME: serialisation.run,
    repositories.NAME: repositories.run,
    cache.NAME: cache.run,
}
RESULTS = Path(__file__).with_name("results")


def main() -> int:
    """Runs the scenarios that were asked for; returns 1 when a load met errors."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=SCENARIOS, help=f"of: {', '.join(SCENARIOS)}")
    parser.add_argument("--seconds", type=float, default=2.0, help="length of each measurement (2)")
    parser.add_argument("--connections", type=int, nargs="+", default=[1, 16, 64, 256, 1024])
    options = parser.parse_args()
    measurements: list[Measurement] = []
    figures: list[Figure] = []
    load_average = machine.load_average()
    with tempfile.TemporaryDirectory(prefix="loopai-bench-") as directory:
        print(f"Load by {load.generator()}, {options.seconds:g} s each.")
        started = time.monotonic()
        with LocalStack(Path(directory, "data")) as stack:
            ready = time.monotonic() - started
            bench = Bench(stack, ready, Path(directory), options.seconds, options.connections)
            for name in options.only or SCENARIOS:
                for result in SCENARIOS[name](bench):
                    print(f"{name}: {report.one_line(result)}", flush=True)
                    if isinstance(result, Measurement):
                        measurements.append(result)
                    else:
                        figures.append(result)
    report.print_report(measurements, figures)
    file = report.write_report(measurements, figures, RESULTS, seconds=options.seconds, load_average=load_average)
    print(f"Written to {file}")
    print(f"{time.monotonic() - started:.0f} s")
    return 1 if any(measurement.load.errors for measurement in measurements) else 0


if __name__ == "__main__":
    sys.exit(main())
