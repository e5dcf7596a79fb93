"""Ollama as an engine: a server of its own, spoken to over HTTP."""
