"""State of the Ray endpoints, choice of an endpoint for each request, and limits on the requests in flight."""
