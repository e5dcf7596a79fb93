"""`LLMIntegration`: the client for Ray Serve, Ollama and the embedded engine, with retries and fallback."""
