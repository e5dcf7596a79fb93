"""The Ollama engine: a model on an Ollama server, reached over HTTP."""
