"""SQL: tables, repositories, engine set-up and migrations."""
