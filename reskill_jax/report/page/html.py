"""One HTML file of a JSON document and the page's assets.

Nothing in it can be executed or fetched but the script and the stylesheet whose hashes
stand in its policy: texts of models and environments are data.
"""

import base64
import gzip
import hashlib
import json
from importlib.resources import files
from typing import Any

_SCRIPTS = ("dom.js", "charts.js", "sections.js", "episodes.js", "start.js")
_PACKED_FROM = 2_000_000  # bytes of JSON from which it is compressed
_MOST = 30_000_000  # bytes of a page


def page(document: dict[str, Any]) -> str:
    """Return the page.

    Args:
        document: of `data.run_document`; JSON types, no infinities.

    Raises:
        ValueError: the page would be larger than 30 MB.
    """
    script = "\n".join(map(_asset, _SCRIPTS))
    style = _asset("page.css")
    text = json.dumps(
        document, ensure_ascii=True, allow_nan=False, separators=(",", ":")
    )
    packed = len(text) > _PACKED_FROM
    if packed:
        data = base64.b64encode(gzip.compress(text.encode(), 6, mtime=0)).decode()
    else:
        data = text.replace("<", "\\u003c")  # no end tag, no comment
    policy = (
        f"default-src 'none'; script-src {_hash(script)}; style-src {_hash(style)}; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )
    html = _asset("page.html")
    for name, value in {
        "POLICY": policy,
        "STYLE": style,
        "KIND": "application/gzip" if packed else "application/json",
        "SCRIPT": script,
        "DATA": data,  # last: what stands in it is not looked at again
    }.items():
        html = html.replace(f"@@{name}@@", value)
    if len(html) > _MOST:
        raise ValueError(
            f"the page has {len(html):,} bytes, more than {_MOST:,}: the run's metrics "
            "or texts of skills are unusually long"
        )
    return html


def _asset(name: str) -> str:
    return files(__package__).joinpath("assets", name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"
