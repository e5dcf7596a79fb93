"""Response streams: decodes bytes into chunks, detects broken streams, and continues them elsewhere."""
