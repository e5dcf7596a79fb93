"""The answer cache: replays stored answers, and shares one generation among identical concurrent requests."""
