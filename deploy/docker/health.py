"""Whether a container is ready, for health checks: exit status 0 or 1, the reason on one line.

`health.py URL` asks for status 200. `health.py DASHBOARD_URL SERVE_URL` looks at a Ray head: the
dashboard answers and, once the application is deployed, so does a replica through Serve's proxy.
Only the standard library, so that a check every ten seconds costs next to nothing.
"""

from __future__ import annotations

import http.client
import os
import sys
from urllib.parse import urlsplit

SECONDS = 5
OK = 200


def main(arguments: list[str]) -> int:
    """0 if ready."""
    if len(arguments) not in {1, 2}:
        sys.stderr.write("usage: health.py URL | health.py DASHBOARD_URL SERVE_URL\n")
        return 2
    try:
        problem = head_problem(*arguments) if arguments[1:] else problem_at(arguments[0])
    except (OSError, http.client.HTTPException) as exc:
        problem = f"{' '.join(arguments)}: {exc}"
    if problem:
        sys.stderr.write(f"{problem}\n")
    return 1 if problem else 0


def head_problem(dashboard: str, serve: str) -> str:
    """What is wrong with a Ray head, or nothing."""
    token = os.environ.get("RAY_AUTH_TOKEN")  # noqa: TID251 (runs without the package)
    problem = problem_at(f"{dashboard}/api/version", token=token)
    if problem:
        return problem
    try:
        _, routes = get(f"{serve}/-/routes")
    except ConnectionRefusedError:
        return ""  # nothing deployed yet
    return problem_at(f"{serve}/readyz") if b'"mongars"' in routes else ""


def problem_at(url: str, *, token: str | None = None) -> str:
    """Nothing if the URL answers 200."""
    status, body = get(url, token=token)
    return "" if status == OK else f"{url}: {status} {body[:200]!r}"


def get(url: str, *, token: str | None = None) -> tuple[int, bytes]:
    """Status and body. Raises `OSError` or `http.client.HTTPException`."""
    parts = urlsplit(url)
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    connection = http.client.HTTPConnection(parts.netloc, timeout=SECONDS)
    try:
        connection.request("GET", parts.path, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
