"""The answer cache: stored answers, and one generation shared by identical concurrent requests."""
