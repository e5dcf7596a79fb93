"""Documented entry points; thin doors into the package."""
