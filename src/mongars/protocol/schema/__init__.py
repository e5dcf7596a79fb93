"""JSON Schema in `response_format`: conversion to a grammar, and which keywords each engine enforces."""
