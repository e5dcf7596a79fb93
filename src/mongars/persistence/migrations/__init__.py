"""The schema revisions of the database, run by Alembic."""
