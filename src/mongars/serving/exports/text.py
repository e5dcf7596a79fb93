"""Format plain data as YAML files."""

from __future__ import annotations

from typing import Any

import yaml

NOTICE = (
    "# Generated from mongars.serving.exports; do not edit. Change the configuration instead.\n"
)


class _Dumper(yaml.SafeDumper):
    """Writes YAML for readers: multi-line strings as blocks, and repeated values in full instead of by anchors."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ANN401, ARG002 (PyYAML's signature)
        return True


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    style = "|" if "\n" in value else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)


_Dumper.add_representer(str, _text)


def as_yaml(data: Any) -> str:  # noqa: ANN401 (plain data of any shape)
    """Format plain data (dictionaries, lists, texts, numbers) as one YAML document, keys in their given order."""
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, width=100, allow_unicode=True)


def as_file(*documents: Any, about: str = "") -> str:  # noqa: ANN401 (as above)
    """Format a YAML file of one or more documents of plain data, after comments.

    The documents are separated by `---`. The comments are a notice that the file is generated, and `about`, plain text
    of one or more lines.
    """
    lines = "".join(f"# {line}\n" for line in about.splitlines())
    return NOTICE + lines + "---\n".join(as_yaml(document) for document in documents)
