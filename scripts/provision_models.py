"""Fetch the base models: `python -m scripts.provision_models --help`."""

from __future__ import annotations

import sys

from mongars.cli.provision_command import main

if __name__ == "__main__":
    sys.exit(main())
