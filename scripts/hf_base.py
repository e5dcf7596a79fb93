"""Convert the base model to the format that vLLM loads and print its folder: `python -m scripts.hf_base`."""

from __future__ import annotations

import sys

from mongars.core.errors import ProvisioningFailed
from mongars.engines.provisioning.model_cache import find_model
from mongars.engines.vllm.hf_base import ensure_hf_base
from mongars.settings import load_settings


def main() -> int:
    """Convert the provisioned base model, unless it is already converted; return the exit status."""
    cache = load_settings().cache
    model = find_model(cache, "general")
    if model is None:
        sys.exit(f"No base model in {cache}. Run: python -m scripts.provision_models")
    try:
        folder = ensure_hf_base(cache, model, waiting=lambda: None)
    except ProvisioningFailed as error:
        sys.exit(str(error))
    sys.stdout.write(f"{folder}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
