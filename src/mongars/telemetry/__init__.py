"""Metrics, log lines and their names; the only package that configures structlog and OpenTelemetry."""
