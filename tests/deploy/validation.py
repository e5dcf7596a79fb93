"""Checks of deployment artefacts by the real schemas, changed to refuse names they do not define."""

from __future__ import annotations

import copy
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from pydantic import ValidationError
from ray.serve.schema import ServeDeploySchema

ROOT = Path(__file__).parents[2]
SCHEMAS = ROOT.parent / "shared" / "data"
KUBERNETES = "1.37"
KUBECTL = Path(sys.executable).parent / "kubectl"
VARIABLE = re.compile(
    r"\$\{(?P<name>\w+)(?:(?P<how>:[-?])(?P<rest>(?:[^${}]|\$\{[^}]*\})*))?\}"  # one nested level
)


def documents(text: str) -> list[dict[str, Any]]:
    """The YAML documents of a file."""
    return [entry for entry in yaml.safe_load_all(text) if entry]


def kustomize(folder: Path) -> list[dict[str, Any]]:
    """The objects that kustomize builds from a folder."""
    found = subprocess.run(  # noqa: S603 (a tool of ours, fixed arguments)
        [KUBECTL, "kustomize", folder], capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stderr
    return documents(found.stdout)


def serve_problems(data: dict[str, Any]) -> list[str]:
    """The errors for which Ray refuses a Serve configuration, and the keys that Ray silently ignores."""
    try:
        parsed = ServeDeploySchema.model_validate(copy.deepcopy(data))
    except (ValidationError, ValueError, TypeError) as exc:
        return [str(exc)]
    return _ignored(data, parsed.model_dump(exclude_unset=True, warnings=False))


def _ignored(given: Any, kept: Any, at: str = "") -> list[str]:
    if isinstance(given, dict) and isinstance(kept, dict):
        missing = [f"{at}/{key}: ignored" for key in given if key not in kept]
        both = [key for key in given if key in kept]
        inner = [one for key in both for one in _ignored(given[key], kept[key], f"{at}/{key}")]
        return missing + inner
    if isinstance(given, list) and isinstance(kept, list):
        pairs = enumerate(zip(given, kept, strict=True))
        return [one for i, (a, b) in pairs for one in _ignored(a, b, f"{at}/{i}")]
    return []


def kubernetes_problems(objects: list[dict[str, Any]]) -> list[str]:
    """The errors for which the API server, the operator or Ray would refuse one of the objects."""
    return [problem for entry in objects for problem in _object_problems(entry)]


def _object_problems(entry: dict[str, Any]) -> list[str]:
    where = f"{entry.get('kind')}/{entry.get('metadata', {}).get('name')}"
    if entry.get("kind") == "RayService":
        found = schema_problems(entry, closed(read_schema("rayservice-v1")))
        text = entry.get("spec", {}).get("serveConfigV2", "")
        found += serve_problems(yaml.safe_load(text))
    else:
        try:
            kubernetes_validate.validate(entry, KUBERNETES, strict=True)
            found = []
        except (kubernetes_validate.ValidationError, jsonschema.ValidationError) as exc:
            found = [exc.message]
        except kubernetes_validate.SchemaNotFoundError as exc:
            found = [str(exc)]
    return [f"{where}: {problem}" for problem in found]


def compose_problems(project: dict[str, Any]) -> list[str]:
    """The errors for which Compose would refuse a project, or start services that cannot work."""
    found = schema_problems(project, read_schema("compose-spec"))
    services = project.get("services", {})
    for name, service in services.items():
        for key, declared in (("networks", project["networks"]), ("depends_on", services)):
            used = service.get(key, {})
            found += [f"{name}: {key}: {entry} is not there" for entry in set(used) - set(declared)]
        sources = {resolved(entry).split(":")[0] for entry in service.get("volumes", [])}
        found += [f"{name}: volume {entry}" for entry in sources - set(project["volumes"])]
    published = [resolved(port).rsplit(":", 1)[0] for port in all_ports(project)]
    found += [f"{port} is published twice" for port in set(published) if published.count(port) > 1]
    return found


def all_ports(project: dict[str, Any]) -> list[str]:
    """Every published port, as written."""
    return [port for service in project["services"].values() for port in service.get("ports", [])]


def resolved(text: str, values: dict[str, str] | None = None) -> str:
    """The text after Compose's substitution of variables by `values`; LookupError if a required one is missing."""
    given = values or {}

    def replace(match: re.Match[str]) -> str:
        name, how, rest = match["name"], match["how"], match["rest"]
        if given.get(name):
            return given[name]
        if how == ":?":
            raise LookupError(f"{name}: {rest}")
        return resolved(rest or "", given)

    return VARIABLE.sub(replace, text)


def read_schema(name: str) -> dict[str, Any]:
    """A published schema from `shared/data`; the test is skipped if the file is missing."""
    path = SCHEMAS / f"{name}.schema.json"
    if not path.is_file():
        pytest.skip(f"{name}.schema.json is not beside this repository")
    return json.loads(path.read_text(encoding="utf-8"))


def schema_problems(data: Any, schema: dict[str, Any]) -> list[str]:
    """Every violation of the schema, with its path in the data."""
    errors = jsonschema.Draft7Validator(schema).iter_errors(data)
    return [f"{error.json_path}: {error.message}" for error in errors]


def closed(schema: Any) -> Any:
    """The schema, changed to refuse fields that it does not define (the API server would drop them)."""
    if isinstance(schema, list):
        return [closed(entry) for entry in schema]
    if not isinstance(schema, dict):
        return schema
    strict = {key: closed(value) for key, value in schema.items()}
    open_on_purpose = "additionalProperties" in schema or any(
        key.startswith("x-kubernetes-preserve") for key in schema
    )
    properties = schema.get("properties")
    # `metadata` is described by Kubernetes itself, not by the definition of the resource.
    if isinstance(properties, dict) and properties and not open_on_purpose:
        strict["additionalProperties"] = False
    return strict


def pod_specs(objects: list[dict[str, Any]]) -> list[tuple[str, dict[str, Any]]]:
    """The labels and specification of every pod, each with the kind and name of the object that makes it."""
    found = []
    for entry in objects:
        name = f"{entry['kind']}/{entry['metadata']['name']}"
        if entry["kind"] == "Pod":
            found.append((name, entry))
        elif entry["kind"] == "RayService":
            cluster = entry["spec"]["rayClusterConfig"]
            groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
            found += [(f"{name}/{i}", group["template"]) for i, group in enumerate(groups)]
        elif "template" in entry.get("spec", {}):
            found.append((name, entry["spec"]["template"]))
    return found
