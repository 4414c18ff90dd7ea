"""Metrics of several workers become those of one service."""

from collections.abc import Iterable

import pytest
from prometheus_client.parser import text_string_to_metric_families

from loopai_common.runtime.metric_merging import Family, Sample, labelled, lasting, merge


def families(text: str) -> list[Family]:
    """What a worker shows, from Prometheus's text format."""
    return [
        Family(
            metric.name,
            metric.type,
            metric.documentation,
            [Sample(s.name, tuple(sorted(s.labels.items())), float(s.value)) for s in metric.samples],
        )
        for metric in text_string_to_metric_families(text)
    ]


def values(merged: Iterable[Family]) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Every value by its name and labels."""
    return {(sample.name, sample.labels): sample.value for family in merged for sample in family.samples}


def test_counters_add_up_label_by_label() -> None:
    one = '# TYPE asked_total counter\nasked_total{route="/a",status="200"} 3\nasked_total{route="/b",status="200"} 1\n'
    two = '# TYPE asked_total counter\nasked_total{status="200",route="/a"} 4\nasked_total{route="/a",status="503"} 2\n'
    assert values(merge([families(one), families(two)])) == {
        ("asked_total", (("route", "/a"), ("status", "200"))): 7,
        ("asked_total", (("route", "/b"), ("status", "200"))): 1,
        ("asked_total", (("route", "/a"), ("status", "503"))): 2,
    }


def test_histograms_add_up_bucket_by_bucket() -> None:
    text = (
        '# TYPE took histogram\ntook_bucket{{le="0.1"}} {}\ntook_bucket{{le="+Inf"}} {}\ntook_count {}\ntook_sum {}\n'
    )
    merged = values(merge([families(text.format(1, 3, 3, 2.5)), families(text.format(0, 2, 2, 4.0))]))
    assert merged == {
        ("took_bucket", (("le", "0.1"),)): 1,
        ("took_bucket", (("le", "+Inf"),)): 5,
        ("took_count", ()): 5,
        ("took_sum", ()): 6.5,
    }


@pytest.mark.parametrize(
    ("name", "expected"),
    [("waiting", 5), ("peak_bytes", 3), ("loopai_build_info", 3), ("asked_created", 2)],
)
def test_a_gauge_is_what_makes_sense_of_it(name: str, expected: float) -> None:
    text = f"# TYPE {name} gauge\n{name} {{}}\n"
    merged = merge([families(text.format(3)), families(text.format(2))], highest={"peak_bytes"})
    assert values(merged) == {(name, ()): expected}


def test_the_creation_of_a_counter_is_the_earliest_one() -> None:
    one, two = (Family("a", "counter", "", [Sample("a_total", (), 1), Sample("a_created", (), at)]) for at in (9, 5))
    assert values(merge([[one], [two]])) == {("a_total", ()): 2, ("a_created", ()): 5}


def test_figures_of_a_process_are_kept_apart() -> None:
    text = (
        "# TYPE process_resident_memory_bytes gauge\nprocess_resident_memory_bytes {}\n"
        '# TYPE python_gc_collections_total counter\npython_gc_collections_total{{generation="0"}} 1\n'
    )
    told = [labelled(families(text.format(100 + seat)), str(seat)) for seat in range(2)]
    assert values(merge(told)) == {
        ("process_resident_memory_bytes", (("worker", "0"),)): 100,
        ("process_resident_memory_bytes", (("worker", "1"),)): 101,
        ("python_gc_collections_total", (("generation", "0"), ("worker", "0"))): 1,
        ("python_gc_collections_total", (("generation", "0"), ("worker", "1"))): 1,
    }


def test_of_a_worker_that_is_gone_only_what_it_counted_lasts() -> None:
    text = (
        "# TYPE asked_total counter\nasked_total 3\n# TYPE waiting gauge\nwaiting 2\n"
        "# TYPE process_cpu_seconds_total counter\nprocess_cpu_seconds_total 9\n"
        '# TYPE took histogram\ntook_bucket{le="+Inf"} 1\ntook_count 1\ntook_sum 2\n'
    )
    assert [family.name for family in lasting(families(text))] == ["asked", "took"]


def test_merging_of_merged_ones_is_merging_of_all() -> None:
    texts = [f"# TYPE asked_total counter\nasked_total {n}\n# TYPE waiting gauge\nwaiting {n}\n" for n in (1, 2, 4)]
    one, two, three = map(families, texts)
    assert merge([merge([one, two]), three]) == merge([one, merge([two, three])]) == merge([one, two, three])


def test_a_family_that_one_worker_alone_has_is_shown_as_it_is() -> None:
    only = families("# HELP odd_total Rare.\n# TYPE odd_total counter\nodd_total 1\n")
    assert merge([families(""), only]) == only
