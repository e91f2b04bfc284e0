"""Redaction of secrets, passwords in addresses and tokens in their queries, in all output.

The log, the screen, tracebacks, a run's configuration and command, and everything sent to MLflow are redacted. Only the
connection itself gets the full address.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import re
from pathlib import Path
from typing import Any
from urllib.parse import unquote

HIDDEN = "***"
# One slash: an address that was taken for a path.
_ADDRESS = r"(?P<scheme>\b(?:[A-Za-z][A-Za-z0-9+.\-]*://|(?:https?|ftp|postgresql|mysql)(?:\+\w+)?:/))"
_START = re.compile(_ADDRESS)
# User and password up to the last @ of the host part. SQLAlchemy accepts / and ? in passwords too; but digits and a
# slash after the first colon are a port and a path.
_USER = re.compile(_ADDRESS + r"(?:[^\s/@:'\"]*:(?!\d*[/?#])[^\s'\"]*|[^\s/?#'\"]*)@")
_PASSWORD = re.compile(_ADDRESS + r"[^\s/@:'\"]*:(?!\d*[/?#])(?P<password>[^\s'\"]*)@")
# Keys in a query, cookie or header whose values are secret.
_QUERY = re.compile(
    r"(?P<key>[?&;][^=&;\s]*(?:token|sig|key|secret|pass|pwd|auth|cred|code|session|jwt)[^=&;\s]*=)[^&;\s'\"]+", re.I
)
# Environment variables that MLflow and its artifact stores read.
_VARIABLES = (
    "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN", "MLFLOW_TRACKING_AWS_SIGV4", "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN", "AZURE_STORAGE_ACCESS_KEY", "AZURE_STORAGE_CONNECTION_STRING", "DATABRICKS_TOKEN",
)  # fmt: skip


@functools.cache
def _passwords() -> set[str]:
    """Return the passwords that this process has seen in addresses."""
    return set()


def learn(text: str) -> None:
    """Remember the passwords in the addresses of a text: libraries repeat them without the address."""
    for match in _PASSWORD.finditer(text):
        _passwords().update({match["password"], unquote(match["password"])})


def redacted(text: str) -> str:
    """Return a text without secrets in addresses, known passwords and secret environment variables.

    >>> redacted("https://me:secret@host:5000/x and http://host:5000/me@x?run=1&X-Amz-Signature=ab12")
    'https://***@host:5000/x and http://host:5000/me@x?run=1&X-Amz-Signature=***'
    """
    learn(text)
    text = _without_queries(setting(text))
    for secret in sorted(_passwords() | {os.environ.get(name, "") for name in _VARIABLES}, key=len, reverse=True):
        # An ordinary word as password (postgresql://mlflow:mlflow@...) would be removed from every sentence.
        if len(secret) >= 6 and not (secret.isalpha() and secret.islower()):
            text = text.replace(secret, HIDDEN)
    return text


def setting(value: str) -> str:
    r"""Return a setting without secrets in addresses; text before the first address stays as it is.

    >>> setting(r"(?P<key>\d+)(?=\.png)")
    '(?P<key>\\d+)(?=\\.png)'
    """
    value = _USER.sub(rf"\g<scheme>{HIDDEN}@", value)
    address = _START.search(value)
    return value if address is None else value[: address.end()] + _without_queries(value[address.end() :])


def _without_queries(text: str) -> str:
    return _QUERY.sub(rf"\g<key>{HIDDEN}", text)


def text(value: str) -> str:
    """Return a setting without secrets that every file and store accepts: undecodable bytes of paths are escaped."""
    return setting(value).encode("utf-8", "backslashreplace").decode("utf-8")


def settings(values: Any) -> Any:
    """Return nested dictionaries and lists of settings without secrets."""
    if isinstance(values, dict):
        return {key: settings(value) for key, value in values.items()}
    if isinstance(values, list | tuple):
        return [settings(value) for value in values]
    return setting(values) if isinstance(values, str) else values


def clean(path: Path) -> None:
    """Redact a text file that a library wrote; ignore a missing one."""
    with contextlib.suppress(OSError):
        content = path.read_text(encoding="utf-8", errors="surrogateescape")
        if setting(content) != content:
            path.write_text(setting(content), encoding="utf-8", errors="surrogateescape")


class Formatter(logging.Formatter):
    """A log formatter that redacts messages and tracebacks."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the redacted line; undecodable bytes of paths are escaped, so that every stream accepts it."""
        return redacted(super().format(record)).encode("utf-8", "backslashreplace").decode("utf-8")
