"""The Compose files: services, variables, secrets and the detection of mistakes."""

from __future__ import annotations

import copy
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from validation import ROOT, compose_problems, documents, resolved

from mongars.bootstrap.serving import serving_config
from mongars.core.errors import ConfigurationError
from mongars.core.generation import Sampling
from mongars.serving.definition import deploy_schema
from mongars.serving.exports.compose import SECRETS
from mongars.serving.exports.compose_services import MODEL_VOLUME
from mongars.serving.exports.config import ExportConfig, for_cluster
from mongars.serving.exports.export import render, source_from
from mongars.settings import Environment, load_settings

if TYPE_CHECKING:
    from pathlib import Path

REQUIRED = (
    "POSTGRES_PASSWORD",
    "SECRET_KEY",
    "MONGARS_BOOTSTRAP_API_KEY",
    "RAY_AUTH_TOKEN",
    "RAY_SERVE_TOKEN",
)


@pytest.fixture
def project() -> dict[str, Any]:
    return read("docker-compose.yml")


def read(name: str) -> dict[str, Any]:
    return documents((ROOT / name).read_text(encoding="utf-8"))[0]


@pytest.mark.parametrize("name", ["docker-compose.yml", "docker-compose.gpu.yml"])
def test_files_satisfy_the_specification(name: str) -> None:
    """The committed Compose files satisfy Compose's specification, alone and merged with the GPU file."""
    merged = read("docker-compose.yml")
    for service, change in read(name)["services"].items():
        merged["services"][service] |= change
    assert compose_problems(merged) == []


def test_default_services_need_no_gpu_and_no_ray(project: dict[str, Any]) -> None:
    """Without a profile only models, database, migrations and API run, and no service needs a GPU."""
    services = project["services"]
    default = {name for name, service in services.items() if "profiles" not in service}
    assert default == {"models", "migrations", "api", "postgres"}
    assert services["ray-head"]["profiles"] == services["ray-deploy"]["profiles"] == ["ray"]
    assert services["ollama"]["profiles"] == ["inference"]
    assert "nvidia" not in str(project)


def test_the_gpu_file_adds_devices_and_nothing_else() -> None:
    """The GPU file adds a reserved GPU to the services it lists, and nothing else."""
    for name, service in read("docker-compose.gpu.yml")["services"].items():
        assert list(service) == ["deploy"], name
        (device,) = service["deploy"]["resources"]["reservations"]["devices"]
        assert device["capabilities"] == ["gpu"]


def test_api_waits_for_finished_migrations_and_for_ray_if_it_runs(project: dict[str, Any]) -> None:
    """The API starts after the migrations have finished, and after Ray is deployed if its profile is on."""
    waits = project["services"]["api"]["depends_on"]
    assert waits["migrations"] == {"condition": "service_completed_successfully"}
    assert waits["ray-deploy"]["required"] is False
    assert project["services"]["ray-deploy"]["depends_on"]["ray-head"] == {
        "condition": "service_healthy"
    }


def test_both_documented_names_reach_serve(project: dict[str, Any]) -> None:
    """Serve has both documented addresses: `http://ray-head:8000/generate` and `http://rayserve:8000/generate`."""
    head = project["services"]["ray-head"]
    assert head["networks"]["front"]["aliases"] == ["rayserve"]
    assert project["services"]["api"]["networks"] == ["front", "data"]


def test_no_secret_has_a_default_and_the_message_names_the_command(project: dict[str, Any]) -> None:
    """Without one of the required secrets, Compose stops with a message that names `secrets.sh`."""
    environments = [
        value
        for service in project["services"].values()
        for value in service.get("environment", {}).values()
    ]
    for name in REQUIRED:
        users = [value for value in environments if f"${{{name}" in value]
        assert users, name
        for value in users:
            others = {other: "x" for other in REQUIRED if other != name}
            with pytest.raises(LookupError, match=r"secrets\.sh"):
                resolved(value, others)


def test_the_command_for_secrets_makes_what_is_missing_and_keeps_the_rest(tmp_path: Path) -> None:
    """`secrets.sh` adds the missing secrets to `.env` and keeps the others, however often it runs.

    Only the owner can read the file, and the settings accept the secrets.
    """
    (tmp_path / ".env").write_text("SECRET_KEY=" + "k" * 40 + "\n")
    script = tmp_path / "secrets.sh"
    script.write_text(SECRETS)
    for _ in range(2):
        subprocess.run(["/bin/sh", script], cwd=tmp_path, check=True)  # noqa: S603 (a tool of ours, fixed arguments)
    text = (tmp_path / ".env").read_text()
    made = dict(line.split("=", 1) for line in text.splitlines())
    assert set(made) == set(REQUIRED)
    assert len(text.splitlines()) == len(REQUIRED)
    assert made["SECRET_KEY"] == "k" * 40
    assert (tmp_path / ".env").stat().st_mode & 0o077 == 0
    load_settings(made)


@pytest.mark.parametrize(
    ("profiles", "used"),
    [("", False), ("inference", False), ("ray", True), ("ray,inference", True), ("*", True)],
    ids=["none", "inference", "ray", "both", "all"],
)
def test_ray_is_used_exactly_when_its_profile_runs(
    project: dict[str, Any], profiles: str, used: bool
) -> None:
    """The API uses Ray if and only if the profile `ray` is on."""
    assert api_settings(project, COMPOSE_PROFILES=profiles).inference().use_ray is used


def test_the_switch_beats_the_profile(project: dict[str, Any]) -> None:
    """`USE_RAY_SERVE` has precedence over the profile."""
    settings = api_settings(project, COMPOSE_PROFILES="ray", USE_RAY_SERVE="false")
    assert settings.inference().use_ray is False


@pytest.mark.parametrize(
    ("name", "value", "field", "expected"),
    [
        ("RAY_CLIENT_TIMEOUT", "30", "timeout", 30.0),
        ("RAY_CLIENT_CONNECT_TIMEOUT", "2", "connect_timeout", 2.0),
        ("RAY_CLIENT_MAX_CONNECTIONS", "64", "max_connections", 64),
        ("RAY_CLIENT_MAX_KEEPALIVE", "32", "max_keepalive", 32),
        ("RAY_SCALING_STATUS_CODES", "503", "scaling_status_codes", {503}),
        ("RAY_SCALING_BACKOFF", "1,3", "scaling_backoff", (1.0, 3.0)),
        ("RAY_MAX_SCALE_CYCLES", "3", "max_scale_cycles", 3),
        ("RAY_SESSION_AFFINITY", "no", "session_affinity", False),
        (
            "RAY_MODEL_MAX_TOKENS",
            "99",
            "sampling",
            Sampling(temperature=0.7, top_p=0.9, max_tokens=99),
        ),
    ],
)
def test_client_variables_in_env_reach_the_api(
    project: dict[str, Any], name: str, value: str, field: str, expected: object
) -> None:
    """A variable of the client in `.env` applies in the API's container; without it the default does."""
    given = api_settings(project, **{name: value}).inference()
    default = load_settings({}).inference()
    assert getattr(given, field) == expected
    unset = api_settings(project).inference()
    assert getattr(unset, field) == getattr(default, field) != expected


def api_settings(project: dict[str, Any], **given: str) -> Any:
    values = dict.fromkeys(REQUIRED, "s" * 40) | given
    environment = project["services"]["api"]["environment"]
    return load_settings({name: resolved(text, values) for name, text in environment.items()})


@pytest.mark.model
@pytest.mark.usefixtures("base_model")
@pytest.mark.parametrize(
    "serving",
    [
        {},
        {
            "replicas": 2,
            "autoscaling": {"min_replicas": 2, "max_replicas": 5},
            "replica": {"engine": {"slots": 3}, "sampling": {"temperature": 0.25}},
        },
    ],
    ids=["default", "changed"],
)
def test_the_deploying_service_deploys_the_definition_of_the_other_exports(
    serving: dict[str, Any],
) -> None:
    """The service `ray-deploy` deploys the same definition as `serveConfigV2` and `serve.yaml`."""
    config = ExportConfig.model_validate({"serving": serving})
    made = documents(render("compose", config)["docker-compose.yml"])[0]
    values = dict.fromkeys(REQUIRED, "s" * 40)
    environment = made["services"]["ray-deploy"]["environment"]
    inside = {name: resolved(text, values) for name, text in environment.items()}
    inside["MONGARS_CACHE"] = str(load_settings().cache)
    deployed = for_cluster(serving_config(load_settings(inside)))
    assert deploy_schema(deployed) == deploy_schema(config.serving)


def test_containers_may_do_as_little_as_possible(project: dict[str, Any]) -> None:
    """Each container has a read-only file system, no capabilities or privileges, and limited memory and logs."""
    for name, service in project["services"].items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["mem_limit"], name
        assert service["logging"]["options"]["max-size"], name
        assert not {"privileged", "cap_add", "network_mode", "pid"} & set(service), name


def test_each_published_port_is_set_by_its_variable(project: dict[str, Any]) -> None:
    """The published ports of API, Serve and dashboard are set by one variable each."""
    given = {"API_PORT": "1", "RAY_HTTP_PORT": "2", "RAY_DASHBOARD_PORT": "3"}
    ports = [port for s in project["services"].values() for port in s.get("ports", [])]
    assert sorted(resolved(port, given) for port in ports) == [
        "127.0.0.1:1:8080",
        "127.0.0.1:2:8000",
        "127.0.0.1:3:8265",
    ]


def test_what_the_environment_cannot_say_is_refused_not_lost() -> None:
    """A setting that Compose's environment variables cannot express is refused at export, not dropped."""
    config = ExportConfig.model_validate({"serving": {"replica": {"max_waiting": 99}}})
    with pytest.raises(ConfigurationError, match=r"replica\.max_waiting"):
        render("compose", config)


def test_each_image_is_built_by_one_service(project: dict[str, Any]) -> None:
    """Each image is built by exactly one service, since concurrent builds of one tag fail."""
    services = project["services"]
    built = [service["image"] for service in services.values() if "build" in service]
    ours = {service["image"] for service in services.values() if "mongars" in service["image"]}
    assert sorted(built) == sorted(ours)


NOT_OF_COMPOSE = {
    # Set by the Compose file itself, for its own containers.
    *("MONGARS_HOME", "MONGARS_CACHE", "MONGARS_HOST", "MONGARS_PORT", "LLM_ADAPTER_REGISTRY_PATH"),
    *(
        "RAY_ROUTE_PREFIX",
        "RAY_HTTP_HOST",
        "RAY_DASHBOARD_ADDRESS",
        "RAY_AUTH_TOKEN_PATH",
        "RAY_SERVE_ENABLE_HA_PROXY",
    ),
    # Used by `mongars up` and the command line, on the host.
    *("RAY_PORT", "MONGARS_API_KEY"),
}


def test_every_variable_of_the_settings_reaches_a_service(project: dict[str, Any]) -> None:
    """Every variable of the settings in `.env` reaches a container, except those in `NOT_OF_COMPOSE`."""
    known = {str(field.validation_alias) for field in Environment.model_fields.values()}
    text = str(project["services"])
    passed = {name for name in known if f"${{{name}:" in text}
    assert known - passed == NOT_OF_COMPOSE
    assert not passed & NOT_OF_COMPOSE


def test_limits_of_connections_reach_serves_proxy(project: dict[str, Any]) -> None:
    """The limits of connections and header bytes reach the API and, in the container of Ray's head, Serve's proxy."""
    for name in ("MONGARS_MAX_CONNECTIONS", "MONGARS_MAX_HEADER_BYTES"):
        for service in ("api", "ray-head"):
            text = project["services"][service]["environment"][name]
            assert resolved(text, {name: "4321"}) == "4321"


@pytest.mark.parametrize(
    "name", ["DB_POOL_SIZE", "DB_PREPARED_STATEMENTS", "RAY_GENERAL_MODEL", "MONGARS_SYSTEM_PROMPT"]
)
def test_variables_in_env_reach_the_api(project: dict[str, Any], name: str) -> None:
    """Variables for pool, model and prompt in `.env` apply to the API; without them the defaults do."""
    value = {"DB_POOL_SIZE": "7", "DB_PREPARED_STATEMENTS": "true"}.get(name, "/models/x.gguf")
    given = api_settings(project, **{name: value}).environment
    unset = api_settings(project).environment
    default = load_settings({}).environment
    (field,) = [f for f, info in Environment.model_fields.items() if info.validation_alias == name]
    assert getattr(given, field) != getattr(default, field)
    assert getattr(unset, field) == getattr(default, field)


def test_a_database_elsewhere_may_be_named(project: dict[str, Any]) -> None:
    """`DATABASE_URL` replaces the database container, for the API and for the migrations."""
    url = "postgresql://u:p@db.example/name"
    for service in ("api", "migrations"):
        text = project["services"][service]["environment"]["DATABASE_URL"]
        assert resolved(text, {"DATABASE_URL": url}) == url
        own = resolved(text, {"POSTGRES_PASSWORD": "s"})
        assert own == "postgresql://mongars:s@postgres:5432/mongars"


def test_models_of_the_operator_reach_engine_and_replicas(project: dict[str, Any]) -> None:
    """One volume has the base models; a one-shot service fills it before the API and Ray's head start."""
    services = project["services"]
    for name in ("models", "api", "ray-head", "ray-deploy"):
        assert any(entry.startswith(MODEL_VOLUME) for entry in services[name]["volumes"]), name
    for name in ("api", "ray-head"):
        condition = services[name]["depends_on"]["models"]["condition"]
        assert condition == "service_completed_successfully"
    folder = services["models"]["volumes"][1]
    assert resolved(folder, {"MODEL_FOLDER": "/srv/models"}) == "/srv/models:/models:ro"


def test_an_export_elsewhere_builds_from_this_repository(tmp_path: Path) -> None:
    """The build context of an export in any folder is the folder of the Dockerfiles, or `MONGARS_SOURCE` if set."""
    out = tmp_path / "a" / "b"
    out.mkdir(parents=True)
    files = render("compose", ExportConfig(), source=source_from(out))
    made = documents(files["docker-compose.yml"])[0]
    for service in ("api", "ray-head"):
        build = made["services"][service]["build"]
        context = (out / resolved(build["context"])).resolve()
        assert (context / build["dockerfile"]).is_file()
        assert resolved(build["context"], {"MONGARS_SOURCE": "/src"}) == "/src"


@pytest.mark.parametrize(
    ("wanted", "built_on", "runs"),
    [("", "a:1", True), ("a:1", "a:1", True), ("a:2", "a:1", False), ("a:2", "", True)],
)
def test_an_image_on_another_base_is_reported(wanted: str, built_on: str, runs: bool) -> None:
    """If `RAY_HEAD_IMAGE` is not the base that the image was built on, the head stops and names the build command."""
    done = subprocess.run(  # noqa: S603 (our own script)
        [sys.executable, ROOT / "deploy" / "docker" / "base_image.py", "echo", "started"],
        env={"PATH": "/usr/bin:/bin", "RAY_HEAD_IMAGE": wanted, "MONGARS_RAY_BASE": built_on},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode == 0) is runs
    assert ("started" in done.stdout) is runs
    assert ("docker compose build" in done.stderr) is not runs


MISTAKES: dict[str, tuple[tuple[str, ...], Any]] = {
    "misspelt key of a service": (("services", "api", "enviroment"), {"A": "b"}),
    "dependency on an unknown service": (("services", "api", "depends_on", "reddis"), {}),
    "condition that does not exist": (
        ("services", "api", "depends_on", "migrations", "condition"),
        "service_done",
    ),
    "port published twice": (
        ("services", "ray-head", "ports"),
        ["127.0.0.1:8080:8000"],
    ),
    "undeclared volume": (("services", "api", "volumes"), ["modles:/models"]),
    "text for a list": (("services", "api", "cap_drop"), "ALL"),
}


@pytest.mark.parametrize(("path", "value"), MISTAKES.values(), ids=MISTAKES.keys())
def test_mistakes_are_caught(project: dict[str, Any], path: tuple[str, ...], value: Any) -> None:
    """A Compose file with a mistake is reported."""
    wrong = copy.deepcopy(project)
    at = wrong
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    assert compose_problems(wrong) != []
