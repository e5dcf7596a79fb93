"""Ollama as an engine, reached over HTTP."""
