"""The Helm chart, rendered by the real Helm engine, makes the same objects as the manifests."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import helm_python
import pytest
import yaml
from helm_python.errors import HelmError
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st
from installations import INSTALLATIONS
from pydantic import ValidationError
from validation import ROOT, documents, kubernetes_problems

from mongars.serving.definition import deploy_schema
from mongars.serving.exports.config import ExportConfig
from mongars.serving.exports.helm import values
from mongars.serving.exports.kubernetes import objects

if TYPE_CHECKING:
    from pathlib import Path

CHART = ROOT / "deploy" / "helm" / "mongars"
TESTS = {("NetworkPolicy", "mongars-test"), ("Pod", "mongars-test")}


@pytest.fixture(scope="module")
def chart() -> helm_python.Chart:
    return helm_python.Chart.load(CHART)


@pytest.mark.parametrize("name", INSTALLATIONS)
def test_chart_makes_the_objects_of_the_manifests(name: str, chart: helm_python.Chart) -> None:
    """From the same configuration, the chart makes the objects of the manifests, and its own test besides."""
    config = INSTALLATIONS[name]
    made = by_name(rendered(chart, values(config)))
    wanted = by_name(objects(config))
    assert set(made) == set(wanted) | TESTS
    for key, entry in wanted.items():
        made[key]["metadata"].pop("annotations", None)
        if key[0] == "RayService":
            entry["spec"]["serveConfigV2"] = deploy_schema(config.serving)
            text = made[key]["spec"]["serveConfigV2"]
            made[key]["spec"]["serveConfigV2"] = yaml.safe_load(text)
        assert made[key] == entry


@pytest.mark.parametrize("name", INSTALLATIONS)
def test_chart_lints_and_its_objects_satisfy_the_schemas(
    name: str, chart: helm_python.Chart
) -> None:
    """Helm's linter accepts the chart, and the schemas of Kubernetes, KubeRay and Ray accept its objects."""
    given_values = values(INSTALLATIONS[name])
    report = helm_python.lint(CHART, given_values, strict=True)
    assert report["errors"] == []
    assert {message["error"] for message in report["messages"]} <= {"icon is recommended"}
    assert kubernetes_problems(rendered(chart, given_values)) == []


def test_values_a_person_leaves_out_or_nulls_take_their_defaults(chart: helm_python.Chart) -> None:
    """Values that are left out or null get the defaults of the configuration, also within an optional role."""
    short = {"serving": {"replica": {"coding": {"slots": 2}, "max_waiting": None}}}
    config = ExportConfig.model_validate({"serving": {"replica": {"coding": {"slots": 2}}}})
    assert serve_config(chart, short) == deploy_schema(config.serving)
    scaled = {"serving": {"autoscaling": {"max_replicas": 6}}}
    config = ExportConfig.model_validate(scaled)
    assert serve_config(chart, scaled) == deploy_schema(config.serving)


eighths = st.integers(1, 8000).map(lambda number: number / 8)  # exact in binary and in decimal
words = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,12}", fullmatch=True)
engines = st.fixed_dictionaries(
    {},
    optional={
        "kind": st.sampled_from(["llama_cpp", "vllm", "fake"]),
        "model_name": words,
        "model_path": words.map("/models/{}".format),
        "slots": st.integers(1, 256),
        "context_tokens": st.integers(64, 2_000_000),
        "threads": st.none() | st.integers(1, 64),
        "prompt_cache_mib": st.integers(0, 10**7),
        "token_delay": eighths,
        "vllm": st.fixed_dictionaries({}, optional={"enforce_eager": st.booleans()}),
    },
)
samplings = st.fixed_dictionaries(
    {},
    optional={
        "temperature": st.integers(0, 16).map(lambda number: number / 8),
        "top_p": st.integers(1, 8).map(lambda number: number / 8),
        "max_tokens": st.none() | st.integers(1, 10**7),
    },
)
embeddings = engines.map(
    lambda engine: {**engine, "kind": "fake"} if engine.get("kind") == "vllm" else engine
)
replicas = st.fixed_dictionaries(
    {},
    optional={
        "engine": engines,
        "coding": st.none() | engines,
        "embedding": st.none() | embeddings,
        "sampling": samplings,
        "prompt_cache_scope": st.sampled_from(["user", "shared"]),
        "max_waiting": st.integers(0, 10**6),
        "max_body_bytes": st.integers(1024, 10**9),
        "answer_timeout": eighths,
        "stuck_after": eighths,
        "token_sha256": st.from_regex(r"[0-9a-f]{64}", fullmatch=True),
        "log_level": st.sampled_from(["debug", "info", "warning", "error"]),
        "generate_path": words.map("/{}".format).filter(lambda path: ":" not in path),
    },
)
scalings = st.builds(
    lambda least, more, rest: {"min_replicas": least, "max_replicas": least + more, **rest},
    st.integers(0, 10),
    st.integers(1, 10),
    st.fixed_dictionaries(
        {},
        optional={
            "target_ongoing_requests": st.none() | eighths,
            "upscale_delay": eighths,
            "downscale_delay": eighths,
        },
    ),
)
servings = st.fixed_dictionaries(
    {},
    optional={
        "replica": replicas,
        "replicas": st.integers(1, 1000),
        "autoscaling": st.none() | scalings,
        "cpus_per_replica": st.integers(0, 16).map(lambda number: number / 8),
        "port": st.integers(1, 65535),
        "drain_seconds": eighths,
        "session_affinity": st.booleans(),
        "haproxy": st.booleans(),
    },
)


@settings(
    # Without shrinking, which renders a chart at every step and takes minutes.
    phases=(Phase.explicit, Phase.reuse, Phase.generate),
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(serving=servings)
@example(serving={"replica": {"engine": {"model_name": "1e3"}, "generate_path": "/0x10"}})
@example(serving={"replica": {"engine": {"model_name": "12:30:45"}}})
@example(serving={"replica": {"engine": {"model_name": "1_000"}}})
@example(serving={"replica": {"engine": {"model_name": "on"}}})
def test_template_and_definition_agree_on_any_application(
    chart: helm_python.Chart, serving: dict[str, Any]
) -> None:
    """For any serving values, complete or partial, the chart's template makes what `deploy_schema` makes."""
    many = {"workers": {"nodes_max": 100_000}}  # room for any number of replicas
    config = ExportConfig.model_validate({"serving": serving, "ray": many})
    wanted = deploy_schema(config.serving)
    assert serve_config(chart, {"serving": serving, "ray": many}) == wanted
    assert serve_config(chart, values(config)) == wanted


WRONG_VALUES: dict[str, dict[str, Any]] = {
    "misspelt part": {"servng": {}},
    "misspelt field": {"serving": {"replica": {"engine": {"slot": 4}}}},
    "too many slots": {"serving": {"replica": {"engine": {"slots": 1000}}}},
    "engine that does not exist": {"serving": {"replica": {"engine": {"kind": "gpt"}}}},
    "ollama without an address": {"serving": {"replica": {"coding": {"kind": "ollama"}}}},
    "Serve listens on loopback only": {"serving": {"host": "127.0.0.1"}},
    "no token asked for": {"serving": {"replica": {"token_sha256": ""}}},
    "image tag that moves": {"api": {"image": {"tag": "latest"}}},
    "text for a number": {"api": {"replicas_min": "two"}},
    "memory without a unit of Kubernetes": {"ray": {"head": {"memory": "4 GB"}}},
    "redis without an address": {"ray": {"gcs": {"storage": "redis"}}},
    "replica larger than its node": {"serving": {"cpus_per_replica": 64}},
    "GPU on a node without": {"serving": {"gpus_per_replica": 1}},
    "bounds the wrong way round": {"ray": {"workers": {"nodes_min": 5, "nodes_max": 2}}},
    "scaling the wrong way round": {"serving": {"autoscaling": {"min_replicas": 9}}},
    "more replicas than fit": {"serving": {"replicas": 9}},
    "more replicas than GPUs": {
        "serving": {"replicas": 3, "gpus_per_replica": 0.5},
        "ray": {"workers": {"gpus": 1, "nodes_max": 1}},
    },
    "scaling beyond the workers": {"serving": {"autoscaling": {"max_replicas": 9}}},
    "variable the chart sets itself": {"api": {"environment": {"RAY_SERVE_URL": "http://a/b"}}},
    "variable of Ray the chart sets itself": {"ray": {"environment": {"RAY_START_HOOK": "x"}}},
    "variable whose value is a secret": {"api": {"environment": {"SECRET_KEY": "x"}}},
    "variable whose name is none": {"api": {"environment": {"A B": "x"}}},
    "name that Helm gives itself": {"namespace": "elsewhere"},
}


@pytest.mark.parametrize("wrong", WRONG_VALUES.values(), ids=WRONG_VALUES.keys())
def test_misspelt_and_impossible_values_are_refused(
    wrong: dict[str, Any], chart: helm_python.Chart
) -> None:
    """Misspelt and contradictory values are refused by the chart and by the configuration classes."""
    with pytest.raises(HelmError):
        rendered(chart, wrong)
    if "namespace" not in wrong:
        with pytest.raises(ValidationError):
            ExportConfig.model_validate(wrong)


def test_a_release_name_that_breaks_object_names_is_refused(chart: helm_python.Chart) -> None:
    """A release name that is too long is refused: KubeRay would shorten it, and the API would not find its Service."""
    with pytest.raises(HelmError, match="release's name"):
        chart.render({}, name="m" * 53, namespace="mongars")


MISTAKES = {
    "template that does not close": ("templates/api.yaml", "{{- end }}\n"),
    "misspelt field in a template": ("templates/migrations.yaml", "sepc: {}\n"),
    "value no schema knows": ("values.yaml", "sevring: {}\n"),
    "schema that is none": ("values.schema.json", "{"),
}


@pytest.mark.parametrize(("file", "text"), MISTAKES.values(), ids=MISTAKES.keys())
def test_mistakes_in_the_chart_are_caught(file: str, text: str, tmp_path: Path) -> None:
    """A mistake in the chart is found by the linter, by rendering or by the schemas of the objects."""
    copied = tmp_path / "mongars"
    shutil.copytree(CHART, copied)
    with (copied / file).open("a", encoding="utf-8") as opened:
        opened.write(text)
    assert chart_problems(copied) != []


def chart_problems(folder: Path) -> list[str]:
    try:
        with helm_python.Chart.load(folder) as chart:
            report = helm_python.lint(folder, {}, strict=True)
            found = rendered(chart, {})
            return [*report["errors"], *kubernetes_problems(found)]
    except HelmError as error:
        return [str(error)]


def rendered(chart: helm_python.Chart, given_values: dict[str, Any]) -> list[dict[str, Any]]:
    chart.validate_schema(given_values)
    texts = chart.render(given_values, name="mongars", namespace="mongars")
    manifests = [text for path, text in texts.items() if path.endswith(".yaml")]
    return [entry for text in manifests for entry in documents(text)]


def serve_config(chart: helm_python.Chart, given_values: dict[str, Any]) -> dict[str, Any]:
    entries = by_name(rendered(chart, given_values))
    return yaml.safe_load(entries["RayService", "mongars"]["spec"]["serveConfigV2"])


def by_name(entries: list[dict[str, Any]]) -> dict[tuple[str, str], dict[str, Any]]:
    return {(entry["kind"], entry["metadata"]["name"]): entry for entry in entries}
