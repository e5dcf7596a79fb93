"""Run `mongars up` as a process, with its own home, ports and Ray cluster."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mongars.bootstrap.first_start import CLI_KEY
from mongars.bootstrap.secrets import read_secret
from mongars.bootstrap.stack.ownership import owned_processes, stack_id
from mongars.core.clock import SystemClock, pause
from mongars.testing.ray_cluster import free_ports

if TYPE_CHECKING:
    from collections.abc import Iterator

    import aiohttp
    import psutil

ROOT = Path(__file__).parents[2]
SECRETS = {
    "SOMEBODYS_BOOTSTRAP_API_KEY": "key-of-another-installation",
    "SECRET_KEY": "signs-the-tokens-of-the-tests-123456",
    "SOMEBODYS_API_KEY": "sk-of-another-program",
}
START_SECONDS = 120
STOP_SECONDS = 15


@dataclass
class Stack:
    home: Path
    environment: dict[str, str]
    process: subprocess.Popen[bytes]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.environment['MONGARS_PORT']}"

    @property
    def key(self) -> str:
        found = read_secret(self.home, CLI_KEY)
        assert found is not None
        return found

    @property
    def screen(self) -> str:
        return (self.home / "screen.txt").read_text()

    def owned(self) -> list[psutil.Process]:
        return list(owned_processes(stack_id(self.home)))

    def run(self, *command: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
        return subprocess.run(  # noqa: S603 (our own commands)
            [sys.executable, *command],
            env=self.environment,
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def wait_for(self, text: str, *, seconds: float) -> None:
        waited = 0.0
        while text not in self.screen:
            assert self.process.poll() is None, f"`mongars up` ended:\n{self.screen}"
            assert waited < seconds, f"{text!r} did not appear in {seconds} s:\n{self.screen}"
            pause(0.1)
            waited += 0.1


@contextmanager
def running_stack(home: Path, cache: Path, *options: str, **variables: str) -> Iterator[Stack]:
    """A started stack, which is stopped by SIGINT at the end."""
    names = ("MONGARS_PORT", "RAY_HTTP_PORT", "RAY_PORT", "RAY_DASHBOARD_PORT")
    ports = dict(zip(names, map(str, free_ports(len(names))), strict=True))
    home.mkdir(exist_ok=True, mode=0o700)
    environment = {
        **{k: v for k, v in os.environ.items() if not k.startswith(("MONGARS_", "RAY_"))},  # noqa: TID251
        **ports,
        "MONGARS_HOME": str(home),
        "MONGARS_CACHE": str(cache),
        **variables,
    }
    with (home / "screen.txt").open("wb") as screen:
        process = subprocess.Popen(  # noqa: S603 (our own command)
            [sys.executable, "-m", "mongars", "up", *options],
            env=environment,
            cwd=home,
            stdin=subprocess.DEVNULL,
            stdout=screen,
            stderr=subprocess.STDOUT,
        )
    stack = Stack(home, environment, process)
    try:
        stack.wait_for("monGARS is ready", seconds=START_SECONDS)
        yield stack
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        process.wait(timeout=STOP_SECONDS + 5)


async def provider_becomes(http: aiohttp.ClientSession, name: str, *, seconds: float) -> float:
    """Send requests until the provider `name` answers; returns the seconds that it took."""
    clock = SystemClock()
    began = clock.monotonic()
    while clock.monotonic() - began < seconds:
        async with http.post("/v1/chat/completions", json=question(max_tokens=1)) as response:
            await response.read()
            if response.status == 200 and response.headers["x-llm-provider"] == name:
                return clock.monotonic() - began
        await clock.sleep(0.25)
    pytest.fail(f"{name} did not answer within {seconds} s")


def question(text: str = "Say hello.", **more: object) -> dict[str, object]:
    return {
        "model": "mongars",
        "messages": [{"role": "user", "content": text}],
        "temperature": 0,
        "max_tokens": 16,
        **more,
    }
