"""``make bench``: starts the stack, runs the scenarios beside their baselines, prints tables and writes a JSON file."""

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from benchmarks import load, report
from benchmarks.bench import Bench, Measurement
from benchmarks.scenarios import single_program
from tests.support.stack import LocalStack

SCENARIOS: Mapping[str, Callable[[Bench], Iterator[Measurement]]] = {
    single_program.NAME: single_program.run,
}
RESULTS = Path(__file__).with_name("results")


def main() -> int:
    """Runs the scenarios that were asked for; returns 1 when a load met errors."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("scenarios", nargs="*", help=f"which to run: {', '.join(SCENARIOS)} (all)")
    parser.add_argument("--seconds", type=float, default=3.0, help="length of each measurement (3)")
    parser.add_argument("--connections", type=int, nargs="+", default=[1, 16, 64, 256])
    options = parser.parse_args()
    unknown = set(options.scenarios) - SCENARIOS.keys()
    if unknown:
        parser.error(f"unknown scenario {', '.join(sorted(unknown))}")
    measurements: list[Measurement] = []
    with tempfile.TemporaryDirectory(prefix="loopai-bench-") as directory:
        print(f"Load by {load.generator()}, {options.seconds:g} s each.")
        with LocalStack(Path(directory, "data")) as stack:
            bench = Bench(stack, Path(directory), options.seconds, options.connections)
            for name in options.scenarios or SCENARIOS:
                for measurement in SCENARIOS[name](bench):
                    measurements.append(measurement)
                    print(
                        f"{name}: {measurement.system}, {measurement.connections} connections: "
                        f"{measurement.load.requests_per_second:,.0f}/s, {measurement.total_cpu_us:.1f} µs",
                        flush=True,
                    )
    report.print_report(measurements)
    print(f"Written to {report.write_report(measurements, RESULTS, seconds=options.seconds)}")
    return 1 if any(measurement.load.errors for measurement in measurements) else 0


if __name__ == "__main__":
    sys.exit(main())
