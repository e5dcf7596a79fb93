"""The catalogue benchmark, which takes minutes at published times, reports limits that hold and limits that do not."""

from __future__ import annotations

import dataclasses

import pytest
from benchmarks import catalogue
from benchmarks.catalogue_cases import CASES

from mongars.testing.faults import Reset

QUICK = ["S03", "S12", "S13"]


@pytest.mark.slow
def test_it_ends_well_where_every_limit_holds(capsys: pytest.CaptureFixture[str]) -> None:
    assert catalogue.main(QUICK) == 0
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| S")]
    assert [row.split(" | ")[:3] for row in rows] == [
        [f"| {name}", "pass", "pass"] for name in QUICK
    ]


@pytest.mark.slow
def test_the_report_fails_and_names_a_limit_that_does_not_hold(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """With another fault in place of the scenario's, the report fails and names the limit that does not hold."""
    (refused,) = (case for case in CASES if case.id == "S13")
    script = dataclasses.replace(refused.script, always=Reset())
    assert catalogue.report((dataclasses.replace(refused, script=script),)) == 1
    output = capsys.readouterr().out
    assert "| S13 | FAIL | FAIL |" in output
    assert "S13 streamed: not held: the refusal reaches the client" in output
