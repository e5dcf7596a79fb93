"""Base models: where they come from, and how they reach the cache whole or not at all."""
