"""The Dockerfiles, checked without building them."""

from __future__ import annotations

import re
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path

import pytest
from validation import ROOT

HADOLINT = Path(sys.executable).parent / "hadolint"
FOLDER = ROOT / "deploy" / "docker"
NAMES = ("api.Dockerfile", "ray.Dockerfile")


@pytest.fixture(params=NAMES)
def text(request: pytest.FixtureRequest) -> str:
    return (FOLDER / request.param).read_text(encoding="utf-8")


def problems(text: str) -> list[str]:
    """The problems that hadolint and the project's own rules find in a Dockerfile."""
    linted = subprocess.run(  # noqa: S603 (a tool of ours, fixed arguments)
        [HADOLINT, "--no-color", "-"], input=text, capture_output=True, text=True, check=False
    )
    lines = instructions(text)
    found = linted.stdout.splitlines()
    users = [line for line in lines if line.startswith("USER ")]
    if not users or not re.fullmatch(r"USER [1-9]\d*(:\d+)?", users[-1]):
        found.append("the last user is not a number other than 0")
    found += [f"{line}: not pinned" for line in bases(lines) if not pinned(line)]
    found += [line for line in lines if line.startswith("ADD ")]
    found += [
        f"{line}: secret" for line in lines if re.match(r"(ARG|ENV) .*(TOKEN|PASSWORD)", line)
    ]
    for line in lines:
        if line.startswith("COPY ") and "--from=" not in line:
            *sources, _ = line.split()[1:]
            found += [
                f"{source} is not there" for source in sources if not (ROOT / source).exists()
            ]
            found += [f"{source} is ignored" for source in sources if ignored(source)]
    return found


def instructions(text: str) -> list[str]:
    """The instructions of a Dockerfile, one per line, without comments."""
    kept = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    joined = re.sub(r"\\\n\s*", " ", kept)
    return [line.strip() for line in joined.splitlines() if line.strip()]


def bases(lines: list[str]) -> list[str]:
    """The images that a Dockerfile starts from, with variables replaced by their defaults."""
    defaults = dict(
        line[4:].split("=", 1) for line in lines if line.startswith("ARG ") and "=" in line
    )
    images = [line.split()[1] for line in lines if line.startswith("FROM ")]
    return [re.sub(r"\$\{(\w+)\}", lambda match: defaults[match[1]], image) for image in images]


def pinned(image: str) -> bool:
    """Whether the tag of an image has a full version."""
    return bool(re.search(r":[\w.-]*\d+\.\d+\.\d+[\w.-]*(@sha256:\w{64})?$", image))


def ignored(path: str) -> bool:
    """Whether `.dockerignore` excludes a path from the build."""
    result = False
    for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            pattern = line.removeprefix("!")
            if pattern == path or path.startswith(f"{pattern}/") or fnmatch(path, pattern):
                result = not line.startswith("!")
    return result


def test_dockerfiles_pass(text: str) -> None:
    """The Dockerfiles pass the linter, end as a user other than root, pin their bases and copy only existing files."""
    assert problems(text) == []


def test_the_requirements_are_the_locked_ones_with_hashes(text: str) -> None:
    """Each `pip install` requires hashes, or installs the project alone without its dependencies."""
    installs = re.findall(r"pip install (.*?)(?:\\\n|&&|\n)", text)
    assert len(installs) == 3
    for arguments in installs:
        assert "--require-hashes" in arguments or "--no-deps --no-build-isolation" in arguments


@pytest.mark.parametrize("path", [".env", ".mongars/db", ".git/config", "docs/x", ".venv/bin/x"])
def test_secrets_and_rubbish_stay_out_of_the_build(path: str) -> None:
    """Secrets and files that are not copied into an image are excluded from the build context."""
    assert ignored(path)


MISTAKES = {
    "root at the end": ("USER 1000:1000", "USER root"),
    "base that moves": ("ARG PYTHON_IMAGE=python:3.11.14-slim-bookworm", "ARG PYTHON_IMAGE=python"),
    "file that is not there": ("COPY src src", "COPY source src"),
    "file the build does not get": ("COPY src src", "COPY tests tests"),
    "download at build time": ("COPY scripts scripts", "ADD https://x.test/y.tar.gz scripts/"),
    "instruction that is none": ("WORKDIR /app", "WORKDIRR /app"),
}


@pytest.mark.parametrize(("good", "bad"), MISTAKES.values(), ids=MISTAKES.keys())
def test_mistakes_are_caught(good: str, bad: str) -> None:
    """A Dockerfile with a mistake is reported."""
    text = (FOLDER / "api.Dockerfile").read_text(encoding="utf-8")
    assert good in text
    assert problems(text.replace(good, bad)) != []


def test_the_interpreter_of_the_ray_image_finds_its_environment(tmp_path: Path) -> None:
    """`/usr/local/bin/python` in the Ray image runs the virtual environment's Python; a symbolic link would not."""
    text = (FOLDER / "ray.Dockerfile").read_text(encoding="utf-8")
    (line,) = re.findall(r"printf '(.*)' > /usr/local/bin/python ", text)
    script = tmp_path / "python"
    made = line.replace("\\n", "\n").replace("/opt/venv/bin/python", sys.executable)
    script.write_text(made)
    script.chmod(0o755)
    done = subprocess.run(  # noqa: S603 (made above)
        [script, "-c", "import sys, mongars; print(sys.prefix)"],
        env={"PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == sys.prefix
    assert not re.search(r"ln .*bin/python", text)
