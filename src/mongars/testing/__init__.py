"""Fakes for tests: a manual clock, a replica and an Ollama server that inject faults, and a Ray cluster."""
