"""A whole stack of small scripts that stand in for Ray, the deployment and the API."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import dataclass
from pathlib import Path

from bootstrap.stack_bench import DEAF, ENVIRONMENT, SERVER, Recorder, argv, free_port
from mongars.bootstrap.stack.config import Service, StackConfig, StackParts
from mongars.bootstrap.stack.probe import http_answers
from mongars.bootstrap.stack.run import run_stack
from mongars.bootstrap.stack.stack import LocalStack
from mongars.core.clock import SystemClock

# Stands in for `ray start`: serves the dashboard and starts a child that ignores SIGTERM.
RAY = f"""#!{sys.executable} -S
import subprocess, sys
subprocess.Popen([sys.executable, '-S', '-c', {DEAF!r}])
port = next(a.partition('=')[2] for a in sys.argv if a.startswith('--dashboard-port='))
sys.argv = ['ray', port]
exec({SERVER!r})
"""

DEPLOY = "import sys; open(sys.argv[1], 'a').write('deployed\\n')"


@dataclass
class World:
    """One home directory, its ports, and the scripts that its stack runs."""

    home: Path
    config: StackConfig
    api: str = SERVER
    deploy: str = DEPLOY

    @property
    def deployments(self) -> int:
        """How often the application was deployed."""
        path = self.home / "deployments"
        return len(path.read_text().splitlines()) if path.exists() else 0

    def parts(self, *, provision=None, migrate=None) -> StackParts:
        """The parts of the stack; `provision` and `migrate` succeed unless given."""

        async def answers() -> bool:
            return await http_answers("127.0.0.1", self.config.port, path="/")

        return StackParts(
            provision=provision or (lambda progress: "tiny"),
            migrate=migrate or (lambda progress: "at head"),
            deploy=Service(argv=argv(self.deploy, str(self.home / "deployments"))),
            api=Service(argv=argv(self.api, str(self.config.port)), ready=answers, ready_within=10),
        )

    def stack(self, listener, **work) -> LocalStack:
        """A stack of these parts that reports its events to `listener`."""
        return LocalStack(self.config, self.parts(**work), clock=SystemClock(), listener=listener)


def world(folder: Path, *, use_ray: bool = True, port: int | None = None) -> World:
    """A stack whose home is `folder`, on free ports."""
    folder.mkdir(parents=True, exist_ok=True)
    fake = folder / "python"
    if not fake.exists():
        fake.write_text(RAY)
        fake.chmod(0o755)
    config = StackConfig(
        home=folder,
        host="127.0.0.1",
        port=port or free_port(),
        ray_http_port=free_port(),
        ray_port=free_port(),
        ray_dashboard_port=free_port(),
        replicas=1,
        use_ray=use_ray,
        python=str(fake),
        environment=ENVIRONMENT,
    )
    return World(home=folder, config=config)


def main(home: str, api: str) -> None:
    """Run the stack in `home` with the API script `api` until a signal, then print how many processes were left."""
    here = world(Path(home))
    here.api = api
    stack = here.stack(Recorder())
    report = asyncio.run(run_stack(stack, on_ready=lambda: say("ready")))
    say(f"killed {len(report.killed)}, alive {len(report.alive)}")


def say(text: str) -> None:
    """Write a line to standard output, which the test that started this process reads."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
