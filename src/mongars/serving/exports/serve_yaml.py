"""The export of the Serve application alone, for `serve deploy` on an existing cluster."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mongars.serving.definition import deploy_schema
from mongars.serving.exports.text import as_file

if TYPE_CHECKING:
    from mongars.serving.exports.config import ExportConfig

ABOUT = """
serve deploy serve.yaml --address http://HEAD:8265

Every node needs this package, the model in its MONGARS_CACHE, and RAY_SERVE_TOKEN in the
environment Ray was started with. Without the variable the application refuses every request.
"""


def files(config: ExportConfig) -> dict[str, str]:
    """The export for `serve deploy`: the single file `serve.yaml`, as a map of file name to text."""
    return {"serve.yaml": as_file(deploy_schema(config.serving), about=ABOUT.strip())}
