"""A Serve application of your own, as a starting point: `serve run serve_app:deployment`.

`LLMDeployment.bind` takes what builds a replica and its configuration. Here both are the stock
ones, configured by the environment (docs/reference/configuration.md); replace either.
"""

from __future__ import annotations

from mongars.bootstrap.replica import build_replica
from mongars.bootstrap.serving import serving_config
from mongars.serving.deployment import LLMDeployment
from mongars.settings import load_settings

config = serving_config(load_settings()).replica
bind = LLMDeployment.bind  # type: ignore[attr-defined] # the decorator made it a Deployment
deployment = bind(build_replica, config.model_dump(mode="json"))
