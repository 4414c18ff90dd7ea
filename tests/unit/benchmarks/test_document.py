"""What the page of a performance report says."""

from typing import Any

from benchmarks.document import page

SIZE = {"rss_bytes": 20 * 1024 * 1024, "pss_bytes": 10 * 1024 * 1024, "processes": 3}


def measured(system: str, api_us: float) -> dict[str, Any]:
    load = {"requests_per_second": 1234.5, "errors": 0, "p50_ms": 1.0, "p95_ms": 2.0, "p99_ms": 3.0}
    cpu = {"cpu_us": {"api": api_us, "nats-server": 1.0}, "total_cpu_us": api_us + 1.0}
    return {
        "scenario": "single_program",
        "system": system,
        "connections": 64,
        "load": load,
        **cpu,
        "memory": {"api": SIZE},
    }


def results(**changes: Any) -> dict[str, Any]:
    return {
        "at": "2026-01-05T09:00:00Z",
        "machine": {"cpu": "A fast one", "cores": 4, "memory": "8 GB", "kernel": "6.1", "python": "CPython 3.11"},
        "load_average": 0.1,
        "load_generator": "wrk",
        "seconds": 2.0,
        "measurements": [measured("Loopai", 29.0), measured("FastAPI, in process", 149.0)],
        "figures": [],
        **changes,
    }


def test_the_page_describes_the_machine_and_has_every_measurement_with_its_ratio() -> None:
    text = page([results()])
    assert "| cpu | A fast one |" in text
    assert "| single_program | Loopai | 64 | 1,234 | 30.0 | 1.00 | 2.00 | 3.00 | 0 |  |" in text
    assert "| single_program | FastAPI, in process | 64 | 1,234 | 150.0 | 1.00 | 2.00 | 3.00 | 0 | 5.00 |" in text
    assert "| Loopai | 64 | api 29.0, nats-server 1.0 |" in text
    assert "| Loopai | api | 3 | 20 | 10 |" in text


def test_a_goal_says_whether_it_is_met_and_one_that_was_not_measured_is_left_out() -> None:
    met = page([results()])
    assert "| CPU a request at 64 connections, all processes | 30.00 µs | ≤ 35 µs | yes |" in met
    assert "at 256 connections, all processes" not in met
    assert "| 50.00 µs | ≤ 35 µs | **no** |" in page([results(measurements=[measured("Loopai", 49.0)])])


def test_a_busy_machine_is_told() -> None:
    assert "busy" not in page([results()])
    assert "**The machine was busy**: 7.5 processes wanted its 4 cores" in page([results(load_average=7.5)])


def test_the_newest_results_come_first() -> None:
    text = page([results(), results(at="2026-02-01T09:00:00Z")])
    assert text.index("2026-02-01") < text.index("2026-01-05")
