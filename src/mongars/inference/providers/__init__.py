"""The concrete places an answer can come from; the home of the HTTP client."""
