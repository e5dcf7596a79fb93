"""The SQL database: its tables, queries, connections and migrations."""
