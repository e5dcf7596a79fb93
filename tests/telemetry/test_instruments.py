"""Counters, histograms and gauges have their declared type on the page that Prometheus scrapes."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from mongars.telemetry import names
from mongars.telemetry.instruments import Instruments
from mongars.telemetry.names import METRICS, Metric

if TYPE_CHECKING:
    from collections.abc import Iterator

DEPTH = Metric(
    name="toy.queue.depth",
    kind="gauge",
    unit="{job}",
    description="Jobs that wait.",
    attributes=("queue",),
)


@contextmanager
def instruments(*more: Metric) -> Iterator[Instruments]:
    made = Instruments(version="test", declared=(*METRICS, *more))
    try:
        yield made
    finally:
        made.close()


def families(page: Instruments) -> dict[str, Any]:
    _, text = page.render()
    return {family.name: family for family in text_string_to_metric_families(text.decode())}


def test_gauge_goes_up_and_down_and_forgets_what_is_gone() -> None:
    """A gauge is exported as type gauge without `_total`, with its value at the scrape and without ended series."""
    depths = {"training": 3.0, "erasure": 1.0}
    with instruments(DEPTH) as made:
        made.gauge(DEPTH, lambda: [(v, {"queue": name}) for name, v in depths.items()])
        family = families(made)["toy_queue_depth"]
        assert family.type == "gauge"
        assert {s.labels["queue"]: s.value for s in family.samples} == depths
        depths["training"] = 1.0
        del depths["erasure"]
        (sample,) = families(made)["toy_queue_depth"].samples
        assert (sample.name, sample.labels, sample.value) == (
            "toy_queue_depth",
            {"queue": "training"},
            1.0,
        )


def test_the_order_of_attributes_makes_no_difference() -> None:
    """A counter raised with the same attributes in two orders is one time series, as Prometheus requires."""
    counter = next(
        metric for metric in METRICS if metric.kind == "counter" and len(metric.attributes) > 1
    )
    one = dict.fromkeys(counter.attributes, "x")
    with instruments() as made:
        made.add(counter, one)
        made.add(counter, dict(reversed(one.items())))
        name = counter.name.replace(".", "_")
        (family,) = [found for key, found in families(made).items() if key.startswith(name)]
        assert [sample.value for sample in family.samples] == [2.0]


def test_every_metric_is_of_its_declared_kind() -> None:
    """Each metric that has a value is exported with the type it is declared with."""
    with instruments() as made:
        for metric in METRICS:
            attributes = dict.fromkeys(metric.attributes, "x")
            if metric.kind == "counter":
                made.add(metric, attributes)
            elif metric.kind == "histogram":
                made.record(metric, 0.5, attributes)
            else:
                made.gauge(metric, lambda: [(1.0, {})])
        found = families(made)
        for metric in METRICS:
            stem = metric.name.replace(".", "_")
            name = f"{stem}_seconds" if metric.unit == "s" else stem
            assert found[name].type == metric.kind


def test_an_undeclared_metric_is_refused() -> None:
    """A metric that is undeclared, or declared with another kind, is refused with KeyError."""
    counter = Metric(name="toy.jobs", kind="counter", unit="{job}", description="Jobs.")
    with instruments() as made:
        with pytest.raises(KeyError):
            made.add(counter, {})
        with pytest.raises(KeyError):
            made.record(names.REQUESTS, 1.0, {})  # a counter, not a histogram
        with pytest.raises(KeyError):
            made.gauge(DEPTH, list)
        with pytest.raises(KeyError):
            made.gauge(names.REQUESTS, list)


def test_metric_names_are_unique() -> None:
    """No two metrics have the same name."""
    assert len({metric.name for metric in METRICS}) == len(METRICS)
