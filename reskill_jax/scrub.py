"""Secrets do not get into what people share: reports, exports, logs.

Two layers: the values of environment variables that are named like secrets, replaced
wherever they stand, and then patterns of what looks like one.

    secrets = environment_secrets(os.environ)
    text = scrub(text, secrets)
    document = scrub_all(document, secrets)  # the strings of a JSON document

Texts of models and environments are data that must stay. What the doctor says of a
machine is not: `hide_secrets` and `anonymous` take away more, in doubt too much.
"""

import getpass
import os
import re
from collections.abc import Collection, Iterable, Mapping
from functools import lru_cache, partial
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

MARK = "***"  # stands in place of a secret
_NAMES = re.compile(r"(KEY|TOKEN|SECRET|CREDENTIALS?|PASS|PASSWD|PASSWORD)$", re.I)
# Shorter values ("1", "true") are no secrets, and their letters are everywhere.
_SHORTEST = 6
_ALONE = re.compile(
    r"\b(sk|pk|rk|hf|gsk|xai|glpat|npm)[-_][\w-]{8,}"
    r"|\bgh[pousr]_\w{16,}|\bgithub_pat_\w{16,}"
    r"|\bxox[a-z]-[\w-]{8,}|\bAIza[\w-]{20,}|\bya29\.[\w.-]{8,}|\b(AKIA|ASIA)[A-Z0-9]{12,}"
    r"|\beyJ[\w-]{10,}\.[\w-]{10,}\.[\w-]+"  # a JSON web token
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----(?s:.*?)(-----END [A-Z ]*PRIVATE KEY-----|\Z)",
    re.IGNORECASE,
)
_AFTER_A_WORD = re.compile(
    r"(://(?:[^/@\s:]*:)?)[^/@\s]+(?=@)"  # https://user:password@host
    r"|(\bAuthorization[\"']?\s?[=:]\s?[\"']?\w+\s+)[^\s\"',;]{6,}"
    r"|(\bBearer\s+)[^\s\"',;]{6,}"
    r"|((?:api[_-]?key|access[_-]?key|token|secret|passwo?r?d)[\"']?\s?[=:]\s?[\"']?)"
    r"[^\s\"'&,;<>]{6,}",
    re.IGNORECASE,
)
# In doubt, see `hide_secrets`. Names of variables, and of keys in texts: token=..
_SECRET = r"key|token|secret|passw|credential|auth|cookie|session|signature"
_NAME = re.compile(_SECRET, re.IGNORECASE)
_LEAST = 4  # characters of a value: shorter ones would be found everywhere
_DOUBTFUL = (
    re.compile(r"\b(api|gh[opusr]|xox[abposr])[-_][\w-]{8,}"),
    re.compile(r"\beyJ[\w-]{8,}\.[\w-]{4,}(\.[\w-]*)?"),  # cut JSON web tokens
    # At least so long, with letters and figures: no word, and no name of a file.
    re.compile(r"(?<![\w/.-])(?=\w*[a-zA-Z])(?=\w*\d\w*\d\w*\d)\w{32,}(?![\w.-])"),
)
# A value after a telling name: token=.., "api_key": "..", Authorization: Basic ..
_ASSIGNED = re.compile(
    rf"""((?:[\w-]*(?:{_SECRET})[\w-]*)["']?\s*[=:]\s*["']?)"""
    r"""((?:Basic|Bearer|Digest)\s+)?([^\s"',;&)}\]]{8,})""",
    re.IGNORECASE,
)


def holds_credentials(address: str) -> bool:
    """Tell whether an address has a user or a password, which would be recorded."""
    parts = urlsplit(address)
    return bool(parts.username or parts.password)


def environment_secrets(environ: Mapping[str, str]) -> tuple[str, ...]:
    """Return the values of the variables that are named like secrets, longest first.

    Args:
        environ: such as ``os.environ``.
    """
    values = {
        value
        for name, value in environ.items()
        if _NAMES.search(name) and len(value) >= _SHORTEST
    }
    return tuple(sorted(values, key=lambda value: (-len(value), value)))


def scrub(text: str, secrets: Iterable[str] = ()) -> str:
    """Replace secrets by ``***``: the given ones, and all that looks like one.

    Args:
        text: anything.
        secrets: to be replaced wherever they stand, as they are and as in URLs;
            longer ones go first. Empty ones are ignored.

    Returns:
        The text without them; what precedes a value (``token=``) stays.
    """
    return _scrub(text, tuple(sorted(filter(None, secrets), key=len, reverse=True)))


def scrub_all(document: Any, secrets: Iterable[str] = ()) -> Any:
    """Scrub every string of a JSON document, and what stands at a key like `token`."""
    if isinstance(document, str):
        return scrub(document, secrets)
    if isinstance(document, Mapping):
        return {
            scrub(key, secrets): MARK
            if isinstance(item, str) and item and _NAMES.search(key)
            else scrub_all(item, secrets)
            for key, item in document.items()
        }
    if isinstance(document, list | tuple):
        return list(map(partial(scrub_all, secrets=secrets), document))
    return document


def hide_secrets(
    text: str,
    environment: Mapping[str, str] | None = None,
    variables: Collection[str] = (),
) -> str:
    """Replace secrets by ``***`` and those of the environment by ``$NAME``.

    Args:
        text: anything.
        environment: variables; None: those of this process.
        variables: names of those that hold secrets, beside what sounds like one.
    """
    for name, value in _longest_first(environment):
        if name in variables or _NAME.search(name):
            text = text.replace(value, f"${name}")
    text = scrub(text)
    text = _ASSIGNED.sub(_hide_value, text)
    for pattern in _DOUBTFUL:
        text = pattern.sub(MARK, text)
    return text


def anonymous(
    text: str,
    environment: Mapping[str, str] | None = None,
    variables: Collection[str] = (),
) -> str:
    """Hide secrets, the home directory, and the names of user and host."""
    text = hide_secrets(text, environment, variables)
    text = text.replace(str(Path.home()), "~")
    for name, word in ((_user(), "USER"), (os.uname().nodename, "HOST")):
        if len(name) >= _LEAST:
            text = re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", word, text)
    return text


@lru_cache(65536)  # the texts of episodes repeat
def _scrub(text: str, secrets: tuple[str, ...]) -> str:
    for secret in secrets:
        for form in (secret, quote(secret, safe="")):
            text = text.replace(form, MARK)
    return _AFTER_A_WORD.sub(_marked, _ALONE.sub(MARK, text))


def _marked(match: re.Match[str]) -> str:
    return next(filter(None, match.groups())) + MARK


def _longest_first(environment: Mapping[str, str] | None) -> list[tuple[str, str]]:
    """Return variables so that no value is hidden in part by a shorter one."""
    values = os.environ if environment is None else environment
    long = [(name, value) for name, value in values.items() if len(value) >= _LEAST]
    return sorted(long, key=lambda pair: -len(pair[1]))


def _hide_value(found: re.Match[str]) -> str:
    return found[0] if found[3].startswith("$") else f"{found[1]}{MARK}"


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # e.g. in a container without a table of users
        return ""
