"""Base models: their sources, and how they are stored in the cache, completely or not at all."""
