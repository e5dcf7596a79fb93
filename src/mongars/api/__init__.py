"""The FastAPI process: routes, authentication, streaming."""
