"""The settings for right, wrong, empty and misspelt environment variables."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from mongars.core.errors import ConfigurationError
from mongars.core.secrecy import OWN_SECRETS, is_secret
from mongars.settings import Environment, load_settings

if TYPE_CHECKING:
    from pathlib import Path

URL = "http://ray-head:8000/generate"


@pytest.mark.parametrize(
    ("variables", "active"),
    [
        ({}, False),
        ({"RAY_SERVE_URL": URL}, True),
        ({"RAY_SERVE_URL": " , "}, False),
        ({"RAY_SERVE_URL": URL, "USE_RAY_SERVE": "false"}, False),
        ({"RAY_SERVE_URL": URL, "USE_RAY_SERVE": " Yes "}, True),
        ({"USE_RAY_SERVE": "true"}, False),
    ],
    ids=["nothing", "url", "blank-url", "switched-off", "switched-on", "on-without-url"],
)
def test_ray_is_used_only_where_there_is_an_endpoint(
    variables: dict[str, str], *, active: bool
) -> None:
    """Ray is used if and only if `RAY_SERVE_URL` has an endpoint and `USE_RAY_SERVE` does not switch it off."""
    assert load_settings(variables).inference().ray_active is active


def test_lists_are_read_leniently_as_documented() -> None:
    """Blank entries and negative pauses are dropped from lists.

    A pause that is no number resets the list to the default. Both mistakes in pauses cause a warning.
    """
    settings = load_settings(
        {"RAY_SERVE_URL": f"{URL}, ,http://b:1/generate/", "RAY_SCALING_BACKOFF": "1.5, -2, 3.0"}
    )
    assert settings.inference().endpoints == (URL, "http://b:1/generate")
    assert settings.inference().scaling_backoff == (1.5, 3.0)
    assert any("negative" in warning for warning in settings.warnings)
    junk = load_settings({"RAY_SCALING_BACKOFF": "1,soon"})
    assert junk.inference().scaling_backoff == (0.5, 1.0, 2.0, 4.0)
    assert any("'soon'" in warning for warning in junk.warnings)


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("RAY_CLIENT_TIMEOUT", "fast", "number"),
        ("RAY_CLIENT_TIMEOUT", "0", "greater than 0"),
        ("USE_RAY_SERVE", "maybe", "1/true/yes/on"),
        ("RAY_SERVE_URL", "ray-head:8000", "http"),
        ("RAY_SCALING_STATUS_CODES", "503,busy", "busy"),
        ("MONGARS_PORT", "70000", "65535"),
        ("SECRET_KEY", "short", "32"),
        ("MONGARS_LOG_LEVEL", "loud", "debug"),
        ("RAY_SERVE_URL", "ftp://user:short@host/x", "http://"),
        ("RAY_SERVE_URL", "http://a:8000/generate http://b:8000/generate", "commas"),
        ("RAY_SERVE_URL", "http://a:8000/generate;http://b:8000/generate", "commas"),
        ("RAY_SERVE_URL", "http://a:8000", "/generate"),
        ("RAY_SERVE_URL", "http://a:8000/", "/generate"),
        ("RAY_SERVE_URL", "http://a:99999/generate", "99999"),
        ("RAY_SERVE_URL", "http://a:8000/v1/embeddings", "/v1/embeddings"),
        ("RAY_SERVE_URL", "http://a:8000/v1/chat/completions/", "/v1/chat/completions"),
        ("RAY_SERVE_URL", "http://a:8000/app/healthz", "/generate"),
        ("OLLAMA_HOST", "ftp://user:short@host", "http"),
        ("MONGARS_ANSWER_CACHE_SECONDS", "86400", "3600"),
        ("MONGARS_USER_WEIGHTS", "alice", "'alice'"),
        ("MONGARS_USER_WEIGHTS", "alice=2,=3", "'=3'"),
        ("MONGARS_USER_WEIGHTS", "alice=much", "'alice=much'"),
        ("MONGARS_USER_WEIGHTS", "alice=0", "0.01 to 100"),
    ],
)
def test_wrong_values_stop_the_start_and_name_the_variable(
    name: str, value: str, says: str
) -> None:
    """A wrong value stops the start with a message that has the variable and what is expected, but no secret."""
    with pytest.raises(ConfigurationError) as caught:
        load_settings({name: value})
    message = str(caught.value)
    assert name in message
    assert says in message
    assert ("short" in message) is False


def test_an_empty_variable_is_an_unset_one() -> None:
    """An empty variable counts as unset.

    Templates and Compose files pass many of them; only for the embedding model does blank have a meaning (none).
    """
    known = [str(field.validation_alias) for field in Environment.model_fields.values()]
    blank = load_settings(dict.fromkeys(known, " "))
    assert blank.inference() == load_settings({}).inference()
    assert blank.environment.host == "127.0.0.1"
    assert blank.embedding_model is None


def test_every_wrong_value_is_named_at_once() -> None:
    """All wrong values are reported in one error."""
    with pytest.raises(ConfigurationError) as caught:
        load_settings({"MONGARS_PORT": "x", "RAY_MODEL_TOP_P": "7"})
    assert "MONGARS_PORT" in str(caught.value)
    assert "RAY_MODEL_TOP_P" in str(caught.value)


def test_misspelt_names_are_pointed_out() -> None:
    """A variable with a name similar to one of monGARS causes a warning with the nearest name; Ray's own do not."""
    warnings = load_settings(
        {"MONGARS_PROT": "1", "RAY_SERVE_URLS": URL, "RAY_worker_niceness": "1"}
    ).warnings
    assert any("MONGARS_PORT" in warning for warning in warnings)
    assert any("RAY_SERVE_URL?" in warning for warning in warnings)
    assert len(warnings) == 2


def test_dot_env_is_read_below_the_environment(tmp_path: Path) -> None:
    """Variables are read from `.env`; those of the process environment have precedence."""
    (tmp_path / ".env").write_text(f"RAY_SERVE_URL={URL}\nMONGARS_PORT=9001\n")
    program = (
        "from mongars.settings import load_settings as l; s = l();"
        "print(s.inference().endpoints[0], s.environment.port)"
    )
    done = subprocess.run(  # noqa: S603 (our own interpreter)
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env={"MONGARS_PORT": "9002", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == [URL, "9002"]


def test_unknown_names_in_dot_env_are_told(tmp_path: Path) -> None:
    """A misspelt name in `.env` causes a warning with the nearest name."""
    (tmp_path / ".env").write_text("MONGARS_PROT=9001\n")
    program = "from mongars.settings import load_settings as l; print(*l().warnings)"
    done = subprocess.run(  # noqa: S603 (our own interpreter)
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env={"PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "MONGARS_PROT is not a variable of monGARS; did you mean MONGARS_PORT?" in done.stdout


def test_given_variables_replace_the_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Variables passed to `load_settings` replace the process environment and `.env`."""
    monkeypatch.setenv("MONGARS_PORT", "9001")
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_text("MONGARS_SLOTS=9\n")
    values = load_settings({}).environment
    assert (values.port, values.slots) == (8080, 4)


def test_published_defaults() -> None:
    """The defaults of the published variables are the documented ones."""
    config = load_settings({}).inference()
    assert (config.timeout, config.connect_timeout) == (10.0, 5.0)
    assert (config.max_connections, config.max_keepalive) == (10, 5)
    assert config.scaling_status_codes == {503, 409}
    assert config.scaling_backoff == (0.5, 1, 2, 4)
    assert config.max_scale_cycles == 2


def test_reading_the_settings_is_cheap() -> None:
    """Importing the settings loads no server, no database, no HTTP client, no engine and no Ray."""
    program = "import sys, mongars.settings; print(*sorted(sys.modules))"
    done = subprocess.run(  # noqa: S603 (our own interpreter)
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    loaded = set(done.stdout.split())
    assert not loaded & {"ray", "fastapi", "sqlalchemy", "aiohttp", "xllamacpp", "opentelemetry"}


def test_every_variable_is_documented() -> None:
    """Each variable has a description for the generated reference."""
    for name, field in Environment.model_fields.items():
        assert field.description, name
        assert str(field.validation_alias).isupper(), name


@pytest.mark.parametrize(
    ("variables", "used"),
    [
        pytest.param({}, True, id="no-compose"),
        pytest.param({"COMPOSE_PROFILES": "ray"}, True, id="ray"),
        pytest.param({"COMPOSE_PROFILES": "inference, ray"}, True, id="among-others"),
        pytest.param({"COMPOSE_PROFILES": "*"}, True, id="all"),
        pytest.param({"COMPOSE_PROFILES": "none"}, False, id="none"),
        pytest.param({"COMPOSE_PROFILES": "inference"}, False, id="another"),
        pytest.param({"COMPOSE_PROFILES": "none", "USE_RAY_SERVE": "yes"}, True, id="told"),
        pytest.param({"COMPOSE_PROFILES": "ray", "USE_RAY_SERVE": "no"}, False, id="told-not"),
    ],
)
def test_ray_is_used_as_the_compose_profile_says_unless_told(
    variables: dict[str, str], *, used: bool
) -> None:
    """In a Compose project the profile decides whether Ray is used, unless `USE_RAY_SERVE` is set."""
    settings = load_settings({"RAY_SERVE_URL": "http://ray-head:8000/generate", **variables})
    assert settings.inference().use_ray is used


def test_hedging_and_the_answer_cache_are_off_unless_asked_for() -> None:
    """Hedging, which adds load, and the answer cache, which keeps users' texts in memory, are off by default."""
    plain = load_settings({}).inference()
    assert (plain.hedge, plain.answer_cache_bytes) == (False, 0)
    chosen = load_settings(
        {
            "RAY_CLIENT_HEDGE": "on",
            "MONGARS_ANSWER_CACHE_MIB": "64",
            "MONGARS_ANSWER_CACHE_SECONDS": "60",
        }
    ).inference()
    assert (chosen.hedge, chosen.answer_cache_bytes) == (True, 64 * 1024 * 1024)
    assert chosen.answer_cache_seconds == 60


@pytest.mark.parametrize(
    "variables",
    [{"MONGARS_ANSWER_CACHE_MIB": "-1"}, {"MONGARS_ANSWER_CACHE_SECONDS": "0"}],
    ids=str,
)
def test_a_cache_of_less_than_nothing_is_refused(variables: dict[str, str]) -> None:
    """A negative cache size and a keeping time of 0 s are refused."""
    with pytest.raises(ConfigurationError, match=next(iter(variables))):
        load_settings(variables)


def test_prompts_are_not_shared_between_users_unless_asked_for() -> None:
    """By default users share no prompt cache. A cache size that is then unused causes a warning."""
    plain = load_settings({})
    assert plain.environment.prompt_cache_scope == "user"
    assert not plain.warnings
    unused = load_settings({"MONGARS_PROMPT_CACHE_MIB": "64"})
    assert any("MONGARS_PROMPT_CACHE_SCOPE=shared" in warning for warning in unused.warnings)
    chosen = {"MONGARS_PROMPT_CACHE_MIB": "64", "MONGARS_PROMPT_CACHE_SCOPE": "shared"}
    assert not load_settings(chosen).warnings
    with pytest.raises(ConfigurationError, match="MONGARS_PROMPT_CACHE_SCOPE"):
        load_settings({"MONGARS_PROMPT_CACHE_SCOPE": "everybody"})


def test_every_secret_is_known_by_its_name() -> None:
    """Secrets are recognised by their variables' names, so that child processes inherit all other variables only."""
    fields = Environment.model_fields.values()
    secret = {str(f.validation_alias) for f in fields if "SecretStr" in str(f.annotation)} | {
        "DATABASE_URL"
    }
    assert secret == OWN_SECRETS
    others = {str(f.validation_alias) for f in fields} - secret
    assert not [name for name in others if is_secret(name)]
    assert is_secret("OPENAI_API_KEY")
    assert is_secret("AWS_SECRET_ACCESS_KEY")
    assert not is_secret("TOKENIZERS_PARALLELISM")


def test_an_endpoint_that_is_named_twice_counts_once() -> None:
    """Endpoints that differ only in a slash at the end, the case of the host or the default port are one."""
    urls = f"{URL},{URL}/,http://RAY-HEAD:8000/generate,http://b/generate,http://b:80/generate"
    settings = load_settings({"RAY_SERVE_URL": urls})
    assert settings.inference().endpoints == (URL, "http://b/generate")
    other = load_settings({"RAY_SERVE_URL": "http://b/api/generate,http://b/generate?x=1"})
    assert len(other.inference().endpoints) == 2


def test_a_password_in_a_url_and_a_token_exclude_each_other() -> None:
    """A URL with credentials works alone; with a token the start is refused, and both variables are named."""
    secret = "http://user:hunter2@ray-head:8000/generate"
    assert load_settings({"RAY_SERVE_URL": secret}).inference().endpoints == (secret,)
    with pytest.raises(ConfigurationError) as caught:
        load_settings({"RAY_SERVE_URL": f"{URL},{secret}", "RAY_SERVE_TOKEN": "t" * 32})
    for name in ("RAY_SERVE_URL", "RAY_SERVE_TOKEN"):
        assert name in str(caught.value)
    assert "hunter2" not in str(caught.value)
