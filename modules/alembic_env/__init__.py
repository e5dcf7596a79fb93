"""Where the `alembic` command starts; a thin door into the package."""
