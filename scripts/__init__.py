"""Documented maintenance commands, which call the package."""
