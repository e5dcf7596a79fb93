"""Retry rules: which failures are retried, how often, after what delay, and when a request is hedged.

A *hedge* is a duplicate of a slow request, sent to a second endpoint before the first has failed.
"""
