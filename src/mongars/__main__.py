"""`python -m mongars`, the same as `mongars`."""

from __future__ import annotations

from mongars.cli.main import main

if __name__ == "__main__":
    main()
