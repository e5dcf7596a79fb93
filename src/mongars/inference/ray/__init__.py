"""The Ray Serve provider: generation requests over HTTP to one of several endpoints."""
