"""JSON Schema in `response_format`: conversion to a grammar, and the keywords that each engine enforces."""
