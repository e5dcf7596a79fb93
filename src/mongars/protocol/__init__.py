"""Formats of the requests, responses and errors sent between client, API process and replica; no input or output."""
