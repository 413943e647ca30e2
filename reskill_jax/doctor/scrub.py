"""Takes secrets out of what people may send to others.

What is removed: the values of environment variables whose names sound like a secret, in
full; what looks like a key, whatever it stands in; and, in a report, where on this
machine things are and who works on it.
"""

import getpass
import os
import re
from collections.abc import Collection, Mapping
from pathlib import Path

from reskill_jax.scrub import scrub

# Names of variables, and of keys in texts such as `token=..`.
_SECRET = r"key|token|secret|passw|credential|auth|cookie|session|signature"
_NAME = re.compile(_SECRET, re.IGNORECASE)
_LEAST = 4  # characters of a value: shorter ones would be found everywhere
_PATTERNS = (
    # Of GitHub, GitLab, Slack, Google, npm, Hugging Face.
    re.compile(r"\b(gh[opusr]|github_pat|glpat|xox[abposr]|npm|hf|api)[-_][\w-]{8,}"),
    re.compile(r"\bAIza[\w-]{20,}|\bya29\.[\w.-]{8,}"),
    re.compile(r"\beyJ[\w-]{8,}\.[\w-]{4,}(\.[\w-]*)?"),  # JSON web tokens
    re.compile(r"-----BEGIN [^-]*KEY-----.*?(-----END [^-]*KEY-----|\Z)", re.DOTALL),
    re.compile(r"(?<=://)[^/\s@]+@"),  # who asks, in an address
)
# A value after a telling name: token=.., "api_key": "..", Authorization: Basic ..
_ASSIGNED = re.compile(
    rf"""((?:[\w-]*(?:{_SECRET})[\w-]*)["']?\s*[=:]\s*["']?)"""
    r"""((?:Basic|Bearer|Digest)\s+)?([^\s"',;&)}\]]{8,})""",
    re.IGNORECASE,
)
# At least so long, with letters and figures: no word, and no name of a file.
_RANDOM = re.compile(r"(?<![\w/.-])(?=\w*[a-zA-Z])(?=\w*\d\w*\d\w*\d)\w{32,}(?![\w.-])")


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
    for pattern in _PATTERNS:
        text = pattern.sub("***", text)
    text = _ASSIGNED.sub(_hide_value, text)
    return _RANDOM.sub("***", text)


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


def _longest_first(environment: Mapping[str, str] | None) -> list[tuple[str, str]]:
    """Return variables so that no value is hidden in part by a shorter one."""
    values = os.environ if environment is None else environment
    long = [(name, value) for name, value in values.items() if len(value) >= _LEAST]
    return sorted(long, key=lambda pair: -len(pair[1]))


def _hide_value(found: re.Match[str]) -> str:
    return found[0] if found[3].startswith("$") else f"{found[1]}***"


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # e.g. in a container without a table of users
        return ""
