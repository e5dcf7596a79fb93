"""JSON Schema as a grammar, and what of it each engine enforces."""
