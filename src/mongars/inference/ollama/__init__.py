"""The Ollama provider: generation requests over the HTTP API of one Ollama server."""
