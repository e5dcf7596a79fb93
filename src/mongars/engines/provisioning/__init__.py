"""Provisioning of base models: their sources, and the cache that stores them, completely or not at all."""
