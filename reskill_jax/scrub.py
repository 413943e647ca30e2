"""Secrets do not get into what people share: reports, exports, logs.

Two layers: the values of environment variables that are named like secrets, replaced
wherever they stand, and then patterns of what looks like one.

    secrets = environment_secrets(os.environ)
    text = scrub(text, secrets)
    document = scrub_all(document, secrets)  # the strings of a JSON document
"""

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache, partial
from typing import Any
from urllib.parse import quote

MARK = "***"  # stands in place of a secret
_NAMES = re.compile(r"(KEY|TOKEN|SECRET|CREDENTIALS?|PASS|PASSWD|PASSWORD)$", re.I)
# Shorter values ("1", "true") are no secrets, and their letters are everywhere.
_SHORTEST = 6
_ALONE = re.compile(
    r"\b(sk|pk|rk|hf|gsk|xai|glpat)[-_][\w-]{8,}"
    r"|\bgh[pousr]_\w{16,}|\bgithub_pat_\w{16,}"
    r"|\bxox[a-z]-[\w-]{8,}|\bAIza[\w-]{30,}|\b(AKIA|ASIA)[A-Z0-9]{12,}"
    r"|\beyJ[\w-]{10,}\.[\w-]{10,}\.[\w-]+"  # a JSON web token
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----(?s:.*?)(-----END [A-Z ]*PRIVATE KEY-----|\Z)",
    re.IGNORECASE,
)
_AFTER_A_WORD = re.compile(
    r"(://[^/@\s:]*:)[^/@\s]+(?=@)"  # https://user:password@host
    r"|(\bBearer\s+)[^\s\"',;]{6,}"
    r"|((?:api[_-]?key|access[_-]?key|token|secret|passwo?r?d)[\"']?\s?[=:]\s?[\"']?)"
    r"[^\s\"'&,;<>]{6,}",
    re.IGNORECASE,
)


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


@lru_cache(65536)  # the texts of episodes repeat
def _scrub(text: str, secrets: tuple[str, ...]) -> str:
    for secret in secrets:
        for form in (secret, quote(secret, safe="")):
            text = text.replace(form, MARK)
    return _AFTER_A_WORD.sub(_marked, _ALONE.sub(MARK, text))


def _marked(match: re.Match[str]) -> str:
    return next(filter(None, match.groups())) + MARK
