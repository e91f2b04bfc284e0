"""Keeping secrets out of all that is written or shown: passwords in addresses, tokens in their queries.

Every way out of the process goes through `redacted`: the log and the screen, a run's configuration and command, what
MLflow is told, and tracebacks. Only the connection itself gets the address as it is.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
from pathlib import Path
from typing import Any
from urllib.parse import unquote

HIDDEN = "***"
# With one slash it is what becomes of an address that is taken for a path.
_ADDRESS = r"(?P<scheme>\b(?:[A-Za-z][A-Za-z0-9+.\-]*://|(?:https?|ftp|postgresql|mysql)(?:\+\w+)?:/))"
# User and password up to the last @ of the host's part; SQLAlchemy takes passwords with / and ? in them as well, but
# digits and a slash behind the first colon are a port and a path.
_USER = re.compile(_ADDRESS + r"(?:[^\s/@:'\"]*:(?!\d*[/?#])[^\s'\"]*|[^\s/?#'\"]*)@")
# Keys of a query (or of a cookie or header written like one) whose values let in whoever has them.
_QUERY = re.compile(
    r"(?P<key>[?&;][^=&;\s]*(?:token|sig|key|secret|pass|pwd|auth|cred|code|session|jwt)[^=&;\s]*=)[^&;\s'\"]+", re.I
)
# What MLflow and its artifact stores take from the environment.
_VARIABLES = (
    "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN", "MLFLOW_TRACKING_AWS_SIGV4", "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN", "AZURE_STORAGE_ACCESS_KEY", "AZURE_STORAGE_CONNECTION_STRING", "DATABRICKS_TOKEN",
)  # fmt: skip
_PASSWORD = re.compile(_ADDRESS + r"[^\s/@:'\"]*:(?!\d*[/?#])(?P<password>[^\s'\"]*)@")

_known: set[str] = set()


def redacted(told: str) -> str:
    """Give a text for people without the passwords and tokens in it.

    Passwords seen in an address are remembered, to be found wherever a library repeats them alone.

    >>> redacted("https://me:secret@host:5000/x and http://host:5000/me@x?run=1&X-Amz-Signature=ab12")
    'https://***@host:5000/x and http://host:5000/me@x?run=1&X-Amz-Signature=***'
    """
    learn(told)
    told = setting(told)
    for secret in sorted(_known | {os.environ.get(name, "") for name in _VARIABLES}, key=len, reverse=True):
        # One that is an ordinary word (postgresql://mlflow:mlflow@...) would take that word out of every sentence.
        if len(secret) >= 6 and not (secret.isalpha() and secret.islower()):
            told = told.replace(secret, HIDDEN)
    return told


def learn(told: str) -> None:
    """Remember the passwords in the addresses of a text."""
    for match in _PASSWORD.finditer(told):
        _known.update({match["password"], unquote(match["password"])})


def setting(value: str) -> str:
    """Give the text of a setting without passwords and tokens of addresses; what is no address stays as it is."""
    return _QUERY.sub(rf"\g<key>{HIDDEN}", _USER.sub(rf"\g<scheme>{HIDDEN}@", value))


def text(value: str) -> str:
    """Give a setting as every file and store can take it: without secrets, undecodable bytes of names escaped."""
    return setting(value).encode("utf-8", "backslashreplace").decode("utf-8")


def settings(found: Any) -> Any:
    """Give nested dictionaries and lists of settings, every text in them as `setting` gives it."""
    if isinstance(found, dict):
        return {key: settings(value) for key, value in found.items()}
    if isinstance(found, list | tuple):
        return [settings(value) for value in found]
    return setting(found) if isinstance(found, str) else found


def clean(path: Path) -> None:
    """Take the secrets out of a text file that a library wrote, where there is one."""
    with contextlib.suppress(OSError):
        found = path.read_text(encoding="utf-8", errors="surrogateescape")
        if setting(found) != found:
            path.write_text(setting(found), encoding="utf-8", errors="surrogateescape")


class Formatter(logging.Formatter):
    """Formats what is logged, tracebacks included, without secrets, and so that every stream can take it."""

    def format(self, record: logging.LogRecord) -> str:
        """Give the line; names that are no text (undecodable bytes) are shown escaped."""
        return redacted(super().format(record)).encode("utf-8", "backslashreplace").decode("utf-8")
