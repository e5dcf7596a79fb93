"""The Serve application: `python -m modules.ray_service --deploy | --status | --export | --shutdown`."""

from __future__ import annotations

from mongars.cli.serve import main
from mongars.serving.deployment import LLMDeployment

__all__ = ["LLMDeployment"]

if __name__ == "__main__":
    main()
