"""Requests, responses and errors as they are sent between client, API process and replica. No module does input or output."""
