"""Names, log set-up and metrics: the only home of structlog configuration and OpenTelemetry."""
