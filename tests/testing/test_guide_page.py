"""`docs/guide/testing-your-client.md`: its commands work, and its table has every fault."""

from __future__ import annotations

import json
import re
import shlex
import signal
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import pytest

from mongars.testing.faults import Fault
from mongars.testing.ray_cluster import free_ports

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE = (Path(__file__).parents[2] / "docs/guide/testing-your-client.md").read_text("utf-8")
BLOCKS = re.findall(r"^```bash\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
PROGRAM = [sys.executable, "-m", "mongars.testing.fake_replica"]


@contextmanager
def running(command: list[str]) -> Iterator[subprocess.Popen[str]]:
    """The started program, after its first line of output; at the end SIGINT (Ctrl-C) must stop it with status 0."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as program:  # noqa: S603
        try:
            assert program.stdout is not None
            assert program.stdout.readline().startswith("http://127.0.0.1:")
            yield program
        finally:
            program.send_signal(signal.SIGINT)
            assert program.wait(timeout=30) == 0


def typed(command: str) -> str:
    done = subprocess.run(  # noqa: S603
        ["/bin/sh", "-ec", command], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def states(said: str) -> list[dict[str, Any]]:
    """The JSON objects in the output `said`, where one follows the other."""
    return json.loads("[" + said.replace("}{", "},{") + "]")


@pytest.mark.slow
def test_the_commands_of_the_page() -> None:
    """The page's commands work in order: start the replica, send a request, set faults, read the state, reset."""
    (port,) = free_ports(1)
    start, ask, order, always, look = (block.replace("9001", str(port)) for block in BLOCKS)
    with running([sys.executable, *shlex.split(start)[1:]]):
        assert typed(ask).endswith("data: [DONE]\n\n")
        *_, ordered = states(typed(order))
        assert [fault["kind"] for fault in ordered["faults"]] == ["answer", "reset", "status"]
        assert "[DONE]" not in typed(ask), "cut, as ordered"
        assert json.loads(typed(always))["always"]["kind"] == "flapping"
        seen, forgotten = states(typed(look))
        assert [request["met"] for request in seen["received"]] == ["answer", "answer"]
        assert forgotten["received"] == []


@pytest.mark.slow
def test_faults_from_the_command_line() -> None:
    """Faults can be set on the command line, once (`--fault`) and permanently (`--always`)."""
    (port,) = free_ports(1)
    fault = '{"kind": "status", "code": 418}'
    base = f"http://127.0.0.1:{port}"
    with running([*PROGRAM, "--port", str(port), "--fault", fault, "--always", fault]):
        asked = f"curl -s -o /dev/null -w '%{{http_code}}' {base}/generate -d '{{}}'"
        assert [typed(asked) for _ in range(2)] == ["418", "418"]


@pytest.mark.slow
def test_what_is_wrong_with_the_command_is_said() -> None:
    """An unknown fault ends the command with status 2, a port in use with 1, and the message names it."""
    (port,) = free_ports(1)
    wrong = subprocess.run(  # noqa: S603
        [*PROGRAM, "--fault", '{"kind": "explode"}'], capture_output=True, text=True, check=False
    )
    assert (wrong.returncode, "explode" in wrong.stderr) == (2, True)
    with running([*PROGRAM, "--port", str(port)]):
        taken = subprocess.run(  # noqa: S603
            [*PROGRAM, "--port", str(port)], capture_output=True, text=True, check=False
        )
    assert (taken.returncode, str(port) in taken.stderr) == (1, True)


def test_the_table_names_every_fault_and_field() -> None:
    """The page's table has every fault with all its fields."""
    rows = dict(re.findall(r"^\| `(\w+)` \|[^|]*\| (.*)\|$", PAGE, re.MULTILINE))
    told = {
        kind: set(re.findall(r"`(\w+)`", row)) - {"close", "abort"} for kind, row in rows.items()
    }
    kinds = get_args(Fault)[0]
    real = {
        kind.__dataclass_fields__["kind"].default: {entry.name for entry in fields(kind)} - {"kind"}
        for kind in get_args(kinds)
    }
    assert told == real
