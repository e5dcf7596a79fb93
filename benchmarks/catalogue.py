"""The fault catalogue at its published times: every scenario, streamed and whole, over real sockets.

`python -m benchmarks.catalogue [S06 S15 ...]` runs the scenarios concurrently, each with its own fakes and its own
client with default timeouts, and prints a table; the exit status is 1 if a limit is exceeded. The scenarios are
those of the FailoverBench v0.1 catalogue, implemented anew: none of its code, and not an official score.
"""

from __future__ import annotations

import asyncio
import sys
from dataclasses import dataclass

from benchmarks.catalogue_cases import CASES, Case, Limits
from benchmarks.catalogue_world import Seen, world
from benchmarks.foundation import say

ALIVE = "alive afterwards within 10 s"
"""A limit that every scenario has."""
HEAD = """\
| | streamed | whole | primary attempts | all attempts | seconds | limits |
| --- | --- | --- | --- | --- | --- | --- |"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The result of one scenario, streamed or whole."""

    seen: Seen
    limits: Limits

    @property
    def word(self) -> str:
        """`pass` if every limit was kept, otherwise `FAIL`."""
        return "pass" if all(self.limits.values()) else "FAIL"

    @property
    def seconds(self) -> float:
        """The longest time that a request took, in seconds."""
        return max(told.seconds for told in self.seen.told)


async def judge(case: Case, *, streamed: bool) -> Verdict:
    """Run a scenario once and check its limits."""
    async with world(case.script) as it:
        seen = await it.play(streamed=streamed)
    return Verdict(seen=seen, limits=case.limits(seen) | {ALIVE: seen.alive})


async def play(cases: tuple[Case, ...]) -> list[tuple[Case, Verdict, Verdict]]:
    """Run all scenarios, streamed and whole, at the same time."""
    async with asyncio.TaskGroup() as group:
        tasks = [
            (
                case,
                group.create_task(judge(case, streamed=True)),
                group.create_task(judge(case, streamed=False)),
            )
            for case in cases
        ]
    return [(case, streamed.result(), whole.result()) for case, streamed, whole in tasks]


def row(case: Case, streamed: Verdict, whole: Verdict) -> str:
    """A row of the table; a cell has two figures where streamed and whole answers differ."""
    cells = (
        case.id,
        streamed.word,
        whole.word,
        _both(len(streamed.seen.primary), len(whole.seen.primary)),
        _both(streamed.seen.attempts, whole.seen.attempts),
        _both(f"{streamed.seconds:.1f}", f"{whole.seconds:.1f}"),
        "; ".join(limit for limit in streamed.limits if limit != ALIVE),
    )
    return f"| {' | '.join(cells)} |"


def _both(first: object, second: object) -> str:
    return str(first) if first == second else f"{first}, {second}"


def broken(case: Case, way: str, verdict: Verdict) -> list[str]:
    """A line for each limit that was not kept."""
    told = verdict.seen.told[-1]
    return [
        f"{case.id} {way}: not held: {limit} (last error: {told.error})"
        for limit, held in verdict.limits.items()
        if not held
    ]


def report(cases: tuple[Case, ...]) -> int:
    """Run the scenarios and print the table; return 1 if a limit was not kept."""
    say(HEAD)
    wrong: list[str] = []
    for case, streamed, whole in asyncio.run(play(cases)):
        say(row(case, streamed, whole))
        wrong += broken(case, "streamed", streamed) + broken(case, "whole", whole)
    for line in wrong:
        say(line)
    return 1 if wrong else 0


def main(names: list[str]) -> int:
    """Run the named scenarios, by default all."""
    return report(tuple(case for case in CASES if not names or case.id in names))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
