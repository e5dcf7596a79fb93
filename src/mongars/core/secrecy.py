"""Recognise environment variables that hold secrets, by their names."""

from __future__ import annotations

OWN_SECRETS = frozenset(
    {
        "DATABASE_URL",
        "MONGARS_API_KEY",
        "MONGARS_BOOTSTRAP_API_KEY",
        "RAY_AUTH_TOKEN",
        "RAY_SERVE_TOKEN",
        "SECRET_KEY",
    }
)
"""Environment variables of monGARS that hold secrets."""
_WORDS = ("KEY", "SECRET", "PASSWORD", "PASSWD", "PASSPHRASE", "TOKEN", "CREDENTIAL", "PGPASS")
_HARMLESS_ENDS = ("_PATH", "_FILE", "_DIR", "_MINUTES", "_TOKENS", "PGPASSFILE")


def is_secret(name: str) -> bool:
    """Whether the name of an environment variable, of monGARS or any other program, suggests that it holds a secret.

    True for the names in `OWN_SECRETS`, and for names that contain KEY, SECRET, TOKEN, CREDENTIAL, PASSWORD, PASSWD,
    PASSPHRASE or PGPASS, unless they end in `_FILE`, `_PATH`, `_DIR`, `_MINUTES`, `_TOKENS` or `PGPASSFILE`, or begin
    with `TOKENIZERS_`; except in `OWN_SECRETS`, case does not matter. The variable's value is not looked at.
    """
    if name in OWN_SECRETS:
        return True
    upper = name.upper()
    if upper.startswith("TOKENIZERS_"):
        return False
    return any(word in upper for word in _WORDS) and not upper.endswith(_HARMLESS_ENDS)
