"""Text generation and embeddings by Ray Serve, Ollama and in-process engines, with retries and fallback."""
