"""Trusted certificates: the operator's CA file for Ray endpoints, the system's trust store for other hosts.

Certificates are always verified; there is no option to disable that.
"""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Literal, NoReturn

from mongars.core.errors import ConfigurationError
from mongars.core.urls import endpoint_label
from mongars.inference.retry.failures import ConnectFailed

if TYPE_CHECKING:
    from pathlib import Path

    from mongars.inference.config import InferenceConfig, TlsConfig

CA_FILE = "RAY_CLIENT_CA_FILE"
CERT_FILE = "RAY_CLIENT_CERT_FILE"
KEY_FILE = "RAY_CLIENT_KEY_FILE"

_EXPIRED = 10
_NOT_YET_VALID = 9
_NAME_MISMATCH = frozenset({62, 64})
"""OpenSSL's `X509_V_ERR_*` codes for a certificate issued for another host name or address."""

_CERTIFICATE_REJECTED = ("CERTIFICATE_REQUIRED", "ALERT", "HANDSHAKE_FAILURE")
_NO_TLS = ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "HTTP_REQUEST")


class TlsContexts:
    """The TLS contexts for connections to model servers, and error messages that explain failed handshakes.

    In all methods, `host` is host and port of a server without the scheme.
    """

    def __init__(self, config: InferenceConfig) -> None:
        """Read the PEM files configured for Ray endpoints.

        Raises `ConfigurationError`, which names the environment variable and the file, if one of them cannot be used.
        """
        self._ray = {endpoint_label(url) for url in config.endpoints if url.startswith("https:")}
        self._sends_certificate = config.tls.cert_file is not None
        self._context = client_context(config.tls) if config.tls.given else None

    def context(self, host: str) -> ssl.SSLContext | Literal[True]:
        """The TLS context for connections to `host`; True selects aiohttp's default, the system's trust store."""
        return self._context if self._context is not None and host in self._ray else True

    def failure(self, error: BaseException, host: str) -> ConnectFailed | None:
        """A `ConnectFailed` whose message explains the TLS failure `error` and what an operator can do.

        `error`: the exception that a request to `host` raised. None if it was not caused by TLS.
        """
        cause = _tls_error(error)
        if cause is None:
            return None
        return ConnectFailed(f"No TLS connection to {host}: {self._reason(cause, host)}")

    def _reason(self, cause: ssl.SSLError, host: str) -> str:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return self._verification_reason(cause, host)
        reason = cause.reason or type(cause).__name__
        if any(word in reason for word in _NO_TLS):
            return "it does not speak TLS; is it an http:// URL?"
        if any(word in reason for word in _CERTIFICATE_REJECTED):
            return f"it rejected our certificate ({reason}).{self.hint(host)}"
        return f"the handshake failed ({reason})."

    def _verification_reason(self, cause: ssl.SSLCertVerificationError, host: str) -> str:
        if cause.verify_code == _EXPIRED:
            return "its certificate has expired. Renew it there."
        if cause.verify_code == _NOT_YET_VALID:
            return "its certificate is not valid yet. Compare the clocks of both machines."
        if cause.verify_code in _NAME_MISMATCH:
            return "its certificate is for another name. Use a name in it, or add this one to it."
        store = CA_FILE if host in self._ray else "the system's certificates"
        return f"its certificate is not trusted ({cause.verify_message}). Add its CA to {store}."

    def hint(self, host: str) -> str:
        """Text for an error message: what to check if `host` closes the connection before it responds.

        Empty unless `host` is a Ray endpoint with TLS. Some servers reject a client's certificate by closing the
        connection without a reason.
        """
        if host not in self._ray:
            return ""
        if self._sends_certificate:
            return f" Does it accept the certificate in {CERT_FILE}?"
        return f" If it requires a client certificate, set {CERT_FILE} and {KEY_FILE}."


def client_context(config: TlsConfig) -> ssl.SSLContext:
    """A TLS context that verifies servers and, if one is configured, sends the client certificate.

    A CA file in `config` replaces the system's certificates. Raises `ConfigurationError`, which names the environment
    variable and the file, if a file is missing, unreadable, not PEM or encrypted, or key and certificate do not match.
    """
    context = ssl.create_default_context()
    if config.ca_file is not None:
        context = _context_with_ca(config.ca_file)
    if config.cert_file is not None and config.key_file is not None:
        _load_certificate(context, config.cert_file, config.key_file)
    return context


def _context_with_ca(ca_file: Path) -> ssl.SSLContext:
    _check(ca_file, CA_FILE, holds="CERTIFICATE-----")
    try:
        return ssl.create_default_context(cafile=ca_file)
    except ssl.SSLError as exc:
        detail = f"{CA_FILE}: {ca_file} contains a certificate that cannot be read."
        raise ConfigurationError(detail) from exc


def _load_certificate(context: ssl.SSLContext, cert_file: Path, key_file: Path) -> None:
    _check(cert_file, CERT_FILE, holds="CERTIFICATE-----")
    _check(key_file, KEY_FILE, holds="PRIVATE KEY-----")

    def passphrase() -> NoReturn:
        detail = f"{KEY_FILE}: {key_file} is encrypted; give a key without a passphrase."
        raise ConfigurationError(detail)

    try:
        context.load_cert_chain(cert_file, key_file, password=passphrase)
    except ssl.SSLError as exc:
        if "MISMATCH" in (exc.reason or ""):
            detail = f"{KEY_FILE}: {key_file} is not the key of {cert_file} ({CERT_FILE})."
        else:
            detail = f"{CERT_FILE}, {KEY_FILE}: {cert_file} and {key_file} cannot be read as PEM."
        raise ConfigurationError(detail) from exc


def _check(path: Path, name: str, *, holds: str) -> None:
    """Raise `ConfigurationError` if the file `path` is unreadable or does not contain the text `holds`.

    `name`: the environment variable of the file, for the message, which never quotes the content of the file.
    """
    try:
        text = path.read_text(encoding="ascii", errors="replace")
    except OSError as exc:
        detail = f"{name}: cannot read {path} ({exc.strerror})."
        raise ConfigurationError(detail) from exc
    if holds not in text:
        detail = f"{name}: {path} is not a PEM file with a {holds.removesuffix('-----').lower()}."
        raise ConfigurationError(detail)


def _tls_error(error: BaseException) -> ssl.SSLError | None:
    """The `ssl.SSLError` that caused `error`, or `error` itself if it is one; None if TLS was not the cause."""
    for candidate in (error.__cause__, error):
        if isinstance(candidate, ssl.SSLError):
            return candidate
    return None
