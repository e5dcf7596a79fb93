"""Wait for the database, then bring its schema up to date: `python init_db.py`."""

from __future__ import annotations

import argparse
import logging
import sys

from mongars.core.errors import MongarsError
from mongars.persistence.migrate import upgrade, wait_for_database
from mongars.persistence.url import masked
from mongars.settings import load_settings

logger = logging.getLogger("init_db")

_EXAMPLES = """examples:
  python init_db.py
  DATABASE_URL=postgresql://user:password@host/name python init_db.py

DB_STARTUP_TIMEOUT and DB_STARTUP_RETRY_INTERVAL (seconds) say how long to wait for the database.
"""


def main() -> int:
    """0 when the schema is at its newest revision, 1 when not; the log says which and why."""
    try:
        settings = load_settings()
        for warning in settings.warnings:
            logger.warning("%s", warning)
        database = settings.database()
        shown = masked(database.url)
        wait_for_database(database, report=logger.warning)
        logger.info("Running alembic upgrade head using %s", shown)
        upgrade(database)
    except MongarsError as error:
        logger.error("DB init failed: %s", error)  # noqa: TRY400 - the message says what to do
        return 1
    logger.info("Alembic upgrade to head completed")
    return 0


if __name__ == "__main__":
    argparse.ArgumentParser(
        prog="python init_db.py",
        description=__doc__,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    ).parse_args()
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    sys.exit(main())
