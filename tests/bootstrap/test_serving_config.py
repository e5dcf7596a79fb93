"""`serving_config`: the Serve application that follows from environment variables."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from mongars.bootstrap.local import ray_access
from mongars.bootstrap.replica import build_replica
from mongars.bootstrap.secrets import RAY_TOKEN, ensure_secret
from mongars.bootstrap.serving import dashboard_of, exported_config, ray_token, serving_config
from mongars.core.errors import ConfigurationError
from mongars.serving.config import TOKEN_FROM_ENVIRONMENT, EngineSpec, ReplicaConfig
from mongars.settings import load_settings

if TYPE_CHECKING:
    from pathlib import Path

    from mongars.settings import Settings

EMBEDDING_OFF = {"RAY_EMBEDDING_MODEL": ""}


def settings(tmp_path: Path, **variables: str) -> Settings:
    folders = {"MONGARS_HOME": str(tmp_path / "home"), "MONGARS_CACHE": str(tmp_path / "cache")}
    return load_settings({**folders, **EMBEDDING_OFF, **variables})


def test_ollama_tag_makes_an_ollama_engine_and_needs_no_file(tmp_path: Path) -> None:
    """`RAY_GENERAL_MODEL=ollama:TAG` serves that model through the Ollama server in `OLLAMA_HOST`."""
    config = serving_config(
        settings(tmp_path, RAY_GENERAL_MODEL="ollama:dolphin3", OLLAMA_HOST="http://box:11434")
    )
    engine = config.replica.engine
    assert (engine.kind, engine.model_name) == ("ollama", "dolphin3")
    assert engine.url == "http://box:11434"


def test_coding_model_of_its_own_gets_an_engine_of_its_own(tmp_path: Path) -> None:
    """A configured coding model gets an engine of its own; without one, the general model takes coding tasks."""
    general = {"RAY_GENERAL_MODEL": "ollama:a"}
    assert serving_config(settings(tmp_path, **general)).replica.coding is None
    both = settings(tmp_path, **general, RAY_CODING_MODEL="ollama:b")
    coding = serving_config(both).replica.coding
    assert coding is not None
    assert coding.model_name == "b"


def test_missing_model_names_the_command_that_brings_it(tmp_path: Path) -> None:
    """A missing model file is refused before deployment, with the command that provides it."""
    with pytest.raises(ConfigurationError, match=r"scripts\.provision_models"):
        serving_config(settings(tmp_path))


def test_exports_name_no_file_of_this_machine(tmp_path: Path) -> None:
    """An exported configuration has no file path of the exporting machine."""
    config = exported_config(settings(tmp_path))
    assert config.replica.engine.model_path == ""
    assert str(tmp_path) not in config.model_dump_json()


def test_replicas_follow_the_load_where_a_maximum_is_set(tmp_path: Path) -> None:
    """With MONGARS_MAX_REPLICAS above MONGARS_REPLICAS, replicas scale between both; a smaller maximum is refused."""
    ollama = {"RAY_GENERAL_MODEL": "ollama:a", "MONGARS_REPLICAS": "2"}
    assert serving_config(settings(tmp_path, **ollama)).autoscaling is None
    same = settings(tmp_path, **ollama, MONGARS_MAX_REPLICAS="2")
    assert serving_config(same).autoscaling is None
    more = serving_config(settings(tmp_path, **ollama, MONGARS_MAX_REPLICAS="5")).autoscaling
    assert more is not None
    assert (more.min_replicas, more.max_replicas) == (2, 5)
    with pytest.raises(ConfigurationError, match="MONGARS_MAX_REPLICAS=1 is less"):
        serving_config(settings(tmp_path, **ollama, MONGARS_MAX_REPLICAS="1"))


def test_vllm_wants_a_model_folder(tmp_path: Path) -> None:
    """With the vLLM engine, the built-in GGUF model is refused and a model folder accepted."""
    with pytest.raises(ConfigurationError, match="model folder"):
        serving_config(settings(tmp_path, MONGARS_ENGINE="vllm"))
    folder = settings(tmp_path, MONGARS_ENGINE="vllm", RAY_GENERAL_MODEL="/models/llama")
    engine = serving_config(folder).replica.engine
    assert (engine.kind, engine.model_path) == ("vllm", "/models/llama")


def test_haproxy_on_the_cluster_leaves_session_affinity_out(tmp_path: Path) -> None:
    """With HAProxy on the cluster, the configuration has `haproxy` set, since Ray then refuses custom routers."""
    config = serving_config(
        settings(tmp_path, RAY_GENERAL_MODEL="ollama:a", RAY_SERVE_ENABLE_HA_PROXY="1")
    )
    assert config.haproxy


def test_open_address_needs_a_token(tmp_path: Path) -> None:
    """Listening on all interfaces without a token is refused."""
    with pytest.raises(ConfigurationError, match="RAY_SERVE_TOKEN"):
        serving_config(
            settings(tmp_path, RAY_GENERAL_MODEL="ollama:a", RAY_HTTP_HOST="0.0.0.0")  # noqa: S104
        )


def test_replica_takes_its_token_from_its_node_where_the_definition_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A replica without a token digest in its definition reads its node's RAY_SERVE_TOKEN, and fails without one."""
    config = ReplicaConfig(engine=EngineSpec(kind="fake"), token_sha256=TOKEN_FROM_ENVIRONMENT)
    monkeypatch.delenv("RAY_SERVE_TOKEN", raising=False)
    with pytest.raises(ConfigurationError, match="RAY_SERVE_TOKEN"):
        build_replica(config, "r1")
    monkeypatch.setenv("RAY_SERVE_TOKEN", "a-token-of-this-node")
    replica, _ = build_replica(config, "r1")
    assert replica.config.token_sha256 not in {None, TOKEN_FROM_ENVIRONMENT}


def test_model_that_is_on_no_disk_fails_the_replica_with_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A replica on a node without the model fails with an error that says to provision the model on that node."""
    monkeypatch.setenv("MONGARS_CACHE", str(tmp_path))
    with pytest.raises(ConfigurationError, match="on this node"):
        build_replica(ReplicaConfig(), "r1")


@pytest.mark.parametrize(
    ("given", "dashboard"),
    [
        ("ray-head:8265", "http://ray-head:8265"),
        ("127.0.0.1:8265", "http://127.0.0.1:8265"),
        ("https://ray.example/", "https://ray.example"),
    ],
)
def test_a_dashboard_may_be_named_without_its_scheme(given: str, dashboard: str) -> None:
    """The dashboard's address may be HOST:PORT or a URL, as an option and in the variable."""
    assert dashboard_of(load_settings({}), given) == dashboard
    assert dashboard_of(load_settings({"RAY_DASHBOARD_ADDRESS": given}), None) == dashboard


@pytest.mark.parametrize("given", ["ray-head:port", "http://a:99999", "a b:8265", "ftp://a:1"])
def test_an_address_that_is_none_is_named(given: str) -> None:
    """An invalid dashboard address is refused with the option's name."""
    with pytest.raises(ConfigurationError, match=r"--address: .*HOST:8265"):
        dashboard_of(load_settings({}), given)


def test_the_local_cluster_keeps_its_own_token(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The local cluster uses its own token, not the RAY_AUTH_TOKEN of another cluster in `.env`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MONGARS_HOME", str(tmp_path / "home"))
    (tmp_path / ".env").write_text("RAY_AUTH_TOKEN=of-another-cluster\n")
    here = load_settings()
    assert ray_token(here) == "of-another-cluster"
    own = ensure_secret(here.home, RAY_TOKEN)
    for name, value in ray_access(here).items():
        monkeypatch.setenv(name, value)
    assert ray_token(load_settings()) == own


def test_a_model_file_of_this_machine_is_not_exported_to_pods(tmp_path: Path) -> None:
    """Exporting a local model file for pods is refused with advice to put the file into the image."""
    file = tmp_path / "my-model.gguf"
    file.write_bytes(b"GGUF")
    given = settings(tmp_path, RAY_GENERAL_MODEL=str(file))
    assert exported_config(given).replica.engine.model_name
    with pytest.raises(ConfigurationError) as caught:
        exported_config(given, images_only=True)
    for word in ("RAY_GENERAL_MODEL", str(file), "image", "serving.replica.engine.model_path"):
        assert word in str(caught.value)
