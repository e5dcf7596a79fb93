"""Retry rules: which failures are retried, how often, after what delay, and when a request is hedged."""
