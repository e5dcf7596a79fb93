"""A page of the guide as commands: its fenced code blocks, and a terminal that runs them unchanged."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from cluster_net import DASHBOARD_PORT, HTTP_PORT

from mongars.core.clock import SystemClock, pause

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from cluster_net import Net, Place

ROOT = Path(__file__).parents[2]
CLOCK = SystemClock()
LONGEST = 120
_BLOCK = re.compile(
    r"(?:^<!-- (?P<word>run|run in the background|not run|shows): (?P<rest>[^\n]+) -->\n)?"
    r"^```(?P<language>\w+)\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)

Word = Literal["run", "run in the background", "not run", "shows", ""]


@dataclass(frozen=True, kw_only=True)
class Block:
    """A fenced code block, and the comment before it: its name, or the reason why it is not run."""

    language: str
    text: str
    line: int
    word: Word
    rest: str


def blocks_of(page: str) -> list[Block]:
    """Every fenced code block of a page, in order."""
    return [
        Block(
            language=found["language"],
            text=found["text"],
            line=page.count("\n", 0, found.start("language")) + 1,
            word=found["word"] or "",
            rest=found["rest"] or "",
        )
        for found in _BLOCK.finditer(page)
    ]


def table_of(page: str, header: str) -> dict[str, str]:
    """The first and second column of the table with that header line, without backquotes."""
    rows = page.partition(header + "\n")[2].splitlines()[1:]
    found = {}
    for row in rows:
        if not row.startswith("|"):
            break
        name, value = (cell.strip().strip("`") for cell in row.split("|")[1:3])
        found[name] = value
    return found


class Terminal:
    """A terminal that runs blocks with bash at one place; variables that a block exports are set for the next.

    If the place has ports of its own, shell functions named `ray` and `serve` add them to these commands, and the
    default ports in the text are replaced. In a namespace nothing is changed.
    """

    def __init__(self, net: Net, place: Place, folder: Path, *, cache: Path) -> None:
        self._net = net
        self._place = place
        self._state = folder / "exported.sh"
        self._state.write_text(f"cd {ROOT}\n" + _functions(place))
        self._folder = folder
        self._environment = {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",  # noqa: TID251
            "HOME": str(folder),
            "MONGARS_CACHE": str(cache),
            "RAY_TMPDIR": str(folder),
            **place.variables,
        }
        if not _by_default(place):
            self._environment |= {
                "RAY_HTTP_PORT": str(place.http_port),
                "RAY_DASHBOARD_PORT": str(place.dashboard_port),
                "RAY_DASHBOARD_ADDRESS": f"http://{place.address}:{place.dashboard_port}",
            }

    def type(self, block: Block) -> str:
        """Run a block to its end and return its output; the test fails unless its exit status is 0."""
        done = subprocess.run(  # noqa: S603 (the commands of our own guide)
            self._command(block),
            env=self._environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=LONGEST,
            check=False,
        )
        said = f"{done.stdout}{done.stderr}"
        assert done.returncode == 0, f"line {block.line}: status {done.returncode}\n{said}"
        return done.stdout

    def type_until(self, block: Block, good: Callable[[str], bool], *, within: float) -> str:
        """Run a block repeatedly until `good` accepts its output, for at most `within` seconds."""
        began = CLOCK.monotonic()
        while not good(said := self.type(block)):
            assert CLOCK.monotonic() - began < within, f"line {block.line}:\n{said}"
            pause(0.3)
        return said

    @contextmanager
    def in_the_background(self, block: Block, *, until: str) -> Iterator[None]:
        """Run a block that does not end: once its output has `until`, the body runs, and then the block gets SIGINT."""
        log = self._folder / f"{block.rest}.log"
        with log.open("wb") as file:
            process = subprocess.Popen(  # noqa: S603 (the commands of our own guide)
                self._command(block),
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                start_new_session=True,
            )
        try:
            began = CLOCK.monotonic()
            while until not in (said := log.read_text()):
                assert process.poll() is None, said
                assert CLOCK.monotonic() - began < LONGEST, said
                pause(0.1)
            yield
        finally:
            os.killpg(process.pid, signal.SIGINT)
            process.wait(timeout=LONGEST)

    def _command(self, block: Block) -> list[str]:
        text = block.text
        if not _by_default(self._place):
            text = text.replace(f"127.0.0.1:{HTTP_PORT}", f"127.0.0.1:{self._place.http_port}")
        script = self._folder / "block.sh"
        script.write_text(text)
        # The variables that a block exports are saved for the next one.
        steps = f'. "{self._state}"; . "$0"; export -p >>"{self._state}"'
        shell = ("bash", "-eu", "-o", "pipefail", "-c", steps, str(script))
        return [*self._net.enter(self._place), *shell]


def _by_default(place: Place) -> bool:
    return (place.dashboard_port, place.http_port) == (DASHBOARD_PORT, HTTP_PORT)


def _functions(place: Place) -> str:
    if _by_default(place):
        return ""
    options = " ".join((*place.head_options, *place.options))
    return f"""
export RAY_JOIN={place.address}:{place.gcs_port}
ray() {{
  if [ "$1" = start ]; then command ray "$@" {options}; else RAY_ADDRESS=$RAY_JOIN command ray "$@"; fi
}}
serve() (
  export RAY_ADDRESS=$RAY_JOIN
  command serve "$@"
)
"""
