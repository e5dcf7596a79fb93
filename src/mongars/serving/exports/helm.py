"""The Helm chart: templates from `chart/`; values and their JSON schema from the models in `exports.config`."""

from __future__ import annotations

import json
import textwrap
from importlib.resources import files as package_files
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from mongars.engines.kinds import KINDS
from mongars.serving.config import Autoscaling, EngineSpec
from mongars.serving.exports.config import RAY_VERSION, VERSION, ExportConfig
from mongars.serving.exports.text import NOTICE, as_file, as_yaml

if TYPE_CHECKING:
    from collections.abc import Iterator
    from importlib.resources.abc import Traversable

CHART = {
    "apiVersion": "v2",
    "name": "mongars",
    "description": "An assistant on your own Ray cluster, with local fallback",
    "type": "application",
    "version": VERSION,
    "appVersion": VERSION,
    "kubeVersion": ">=1.29.0-0",
    "annotations": {"mongars/ray-version": RAY_VERSION},
}
GIVEN_BY_HELM = ("name", "namespace")


def files(config: ExportConfig) -> dict[str, str]:
    """The files of the Helm chart, as a map of relative path to text; `config` provides the default values."""
    chart = package_files("mongars.serving.exports") / "chart"
    return {
        **dict(_texts(chart)),
        "Chart.yaml": as_file(CHART),
        "values.yaml": NOTICE + "".join(_commented(config)),
        "values.schema.json": _json(schema()),
        "files/defaults.json": _json(
            {
                "values": values(config),
                "engine": EngineSpec().model_dump(mode="json"),
                "autoscaling": Autoscaling().model_dump(mode="json"),
            }
        ),
    }


def values(config: ExportConfig) -> dict[str, Any]:
    """The configuration as the content of the chart's `values.yaml`, in types that JSON has.

    Without name and namespace, which Helm provides.
    """
    return config.model_dump(mode="json", exclude=set(GIVEN_BY_HELM))


def schema() -> dict[str, Any]:
    """The JSON schema of the Helm chart's values; unknown names are refused at every level."""
    found = ExportConfig.model_json_schema()
    for name in GIVEN_BY_HELM:
        del found["properties"][name]
    parts = found["$defs"]
    for kind in KINDS.values():
        if kind.model == "served":
            parts["EngineSpec"] |= _requires("kind", kind.name, "url")
    parts["Gcs"] |= _requires("storage", "redis", "redis_address")
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **_untitled(found)}


def _requires(key: str, value: str, needed: str) -> dict[str, Any]:
    """A JSON Schema rule: if the property `key` is `value`, the property `needed` must be a non-empty string."""
    return {
        "if": {"properties": {key: {"const": value}}, "required": [key]},
        "then": {"properties": {needed: {"minLength": 1}}, "required": [needed]},
    }


def _untitled(node: Any) -> Any:  # noqa: ANN401 (JSON of any shape)
    """A copy of the JSON schema `node` without the titles that pydantic generates from field names."""
    if isinstance(node, dict):
        kept = {key: value for key, value in node.items() if key != "title"}
        return {key: _untitled(value) for key, value in kept.items()}
    return [_untitled(entry) for entry in node] if isinstance(node, list) else node


def _commented(part: BaseModel, indent: str = "") -> Iterator[str]:
    """Yield the fields of a section of the configuration as lines of YAML, each after its description as a comment.

    `indent` is put before each line.
    """
    data = part.model_dump(mode="json")
    for name, field in type(part).model_fields.items():
        if isinstance(part, ExportConfig) and name in GIVEN_BY_HELM:
            continue
        value = getattr(part, name)
        about = field.description
        if about is None and isinstance(value, BaseModel):
            about = type(value).__doc__
        for line in textwrap.wrap(" ".join((about or "").split()), 96 - len(indent)):
            yield f"{indent}# {line}\n"
        if isinstance(value, BaseModel):
            yield f"{indent}{name}:\n"
            yield from _commented(value, indent + "  ")
        else:
            yield textwrap.indent(as_yaml({name: data[name]}), indent)


def _texts(folder: Traversable, prefix: str = "") -> Iterator[tuple[str, str]]:
    for entry in folder.iterdir():
        if entry.is_dir():
            yield from _texts(entry, f"{prefix}{entry.name}/")
        else:
            yield f"{prefix}{entry.name}", entry.read_text(encoding="utf-8")


def _json(data: dict[str, Any]) -> str:
    return json.dumps(data, indent=2) + "\n"
