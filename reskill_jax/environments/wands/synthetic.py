"""Synthetic rows in the form of WANDS, for tests and for runs without its files.

Everything is invented, and so are the labels: a product is Exact where its class and
all features that the query names are right, Partial where only the class is, and else
Irrelevant. Nothing that is measured here says anything of WANDS.
"""

import csv
import io
from collections.abc import Iterable, Sequence
from itertools import product

from reskill_jax.environments.wands.files import (
    EXACT,
    IRRELEVANT,
    LABELS,
    PARTIAL,
    PRODUCTS,
    QUERIES,
)

_CLASSES = ("Sofas", "Rugs", "Lamps", "Desks", "Shelves", "Mirrors")
_FEATURES = {
    "color": ("grey", "blue", "green", "white"),
    "material": ("oak", "steel", "linen"),
    "shape": ("round", "square"),
}
_MAKERS = ("Aldmoor", "Brinfell", "Corvane", "Dunlisk", "Estray", "Fallowin", "Gornel")
_SERIES = ("Nook", "Vale", "Crest")
# Columns of WANDS; ours leave the second line's empty.
_PRODUCT = (
    *("product_id", "product_name", "product_class", "category hierarchy"),
    *("product_description", "product_features"),
    *("rating_count", "average_rating", "review_count"),
)


def synthetic_files() -> dict[str, str]:
    """Return the three files' content by name: 144 products, 72 queries."""
    names = list(_FEATURES)
    goods = [
        (kind, dict(zip(names, values, strict=True)))
        for kind in _CLASSES
        for values in product(*_FEATURES.values())
    ]
    asked = [
        (kind, {"color": color, "material": material})
        for kind in _CLASSES
        for color, material in product(_FEATURES["color"], _FEATURES["material"])
    ]
    products = [
        _product(number, kind, features)
        for number, (kind, features) in enumerate(goods)
    ]
    queries = [
        (str(number), f"{wanted['color']} {kind.lower()} in {wanted['material']}", kind)
        for number, (kind, wanted) in enumerate(asked)
    ]
    labels = [
        (query, item, _label(kind, features, *wanted))
        for query, wanted in enumerate(asked)
        for item, (kind, features) in enumerate(goods)
    ]
    return {
        PRODUCTS: _table(_PRODUCT, products),
        QUERIES: _table(("query_id", "query", "query_class"), queries),
        LABELS: _table(
            ("id", "query_id", "product_id", "label"),
            ((number, *label) for number, label in enumerate(labels)),
        ),
    }


def _product(number: int, kind: str, features: dict[str, str]) -> Sequence[object]:
    # Names tell nothing: one has to look at features or description.
    maker = _MAKERS[number % len(_MAKERS)]
    name = f"{maker} {_SERIES[number % len(_SERIES)]} {number}"
    text = (
        f"This synthetic product has a {features['shape']} form, is made of "
        f"{features['material']} and comes in {features['color']}."
    )
    listed = "|".join(f"{key}:{value}" for key, value in features.items())
    rating = 3 + number % 20 / 10
    return number, name, kind, f"Synthetic / {kind}", text, listed, 8, rating, 4


def _label(
    kind: str, features: dict[str, str], wanted_kind: str, wanted: dict[str, str]
) -> str:
    if kind != wanted_kind:
        return IRRELEVANT
    return EXACT if wanted.items() <= features.items() else PARTIAL


def _table(header: Iterable[str], rows: Iterable[Sequence[object]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, delimiter="\t", lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue()
