"""Documented maintenance commands; thin doors into the package."""
