"""A Serve application of your own, as a starting point: `serve run serve_app:deployment`.

`LLMDeployment.bind` takes what builds a replica, and its configuration; `options` takes how Serve
runs it; `prepare_serve_run` has `serve run` listen on RAY_HTTP_PORT. Here all of it is what `--deploy` uses, configured by the environment
(docs/reference/configuration.md); replace any of it.
"""

from __future__ import annotations

import sys

from mongars.bootstrap.replica import build_replica
from mongars.bootstrap.serving import serving_config
from mongars.serving.definition import deploy_schema
from mongars.serving.deployment import LLMDeployment
from mongars.serving.serve_run import prepare_serve_run
from mongars.settings import load_settings

config = serving_config(load_settings())
prepare_serve_run(config, sys.argv)
# Without these, Serve lets five requests into a replica and queues the others without a bound.
(options,) = deploy_schema(config)["applications"][0]["deployments"]
configured = LLMDeployment.options(**options)  # type: ignore[attr-defined] # it is a Deployment
deployment = configured.bind(build_replica, config.replica.model_dump(mode="json"))
