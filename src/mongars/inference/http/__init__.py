"""Outgoing HTTP with aiohttp: the connection pool and TLS that the Ray and Ollama providers share."""
