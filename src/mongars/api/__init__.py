"""The HTTP API: its routes, authentication and streaming of answers, with FastAPI."""
