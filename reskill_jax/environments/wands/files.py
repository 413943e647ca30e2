"""Reads the three files of WANDS: products, queries, and what fits which query.

They are separated by tabs, whatever their names say. They come from elsewhere, so every
row is checked, and what is wrong with one names the file and the row.
"""

import csv
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from reskill_jax.storage import well_formed

VARIABLE = "WANDS_DATA"
PRODUCTS, QUERIES, LABELS = FILES = ("product.csv", "query.csv", "label.csv")
COUNTS = {PRODUCTS: 42_994, QUERIES: 480, LABELS: 233_448}
EXACT, PARTIAL, IRRELEVANT = ("Exact", "Partial", "Irrelevant")
_COLUMNS = {
    PRODUCTS: (
        *("product_id", "product_name", "product_class"),
        *("product_description", "product_features", "average_rating"),
    ),
    QUERIES: ("query_id", "query"),
    LABELS: ("query_id", "product_id", "label"),
}
_GET_DATA = (
    f"download {', '.join(FILES)} from the folder dataset of github.com/wayfair/WANDS "
    f"into one directory and name it in root, or in the variable {VARIABLE}; "
    "synthetic=True plays invented products"
)


@dataclass(frozen=True)
class Product:
    """What a shop says of a product.

    Attributes:
        id: unique.
        name: its title.
        kind: its class, e.g. ``Beds``; may be empty.
        description: a paragraph; may be empty.
        features: value by name, as `feature_key` writes names; may be none.
        rating: mean of customers' ratings, as text; may be empty.
    """

    id: str
    name: str
    kind: str
    description: str
    features: Mapping[str, str]
    rating: str


@dataclass(frozen=True)
class Catalogue:
    """All three files.

    Attributes:
        products: by id.
        queries: text by id.
        labels: by query, then by product.
        rows: how many each file has.
    """

    products: Mapping[str, Product]
    queries: Mapping[str, str]
    labels: Mapping[str, Mapping[str, str]]
    rows: Mapping[str, int]


def read_catalogue(root: str) -> Catalogue:
    """Read the published files.

    Args:
        root: their directory; empty: the one in WANDS_DATA.

    Raises:
        ValueError: one is missing, cannot be read, or has not its published number of
            rows.
    """
    place = root or os.environ.get(VARIABLE, "")
    missing = [name for name in FILES if not place or not Path(place, name).is_file()]
    if missing:
        where = f"root={root!r}" if root else f"root='' and {VARIABLE}={place!r}"
        raise ValueError(f"{where}: no {', '.join(missing)} there; {_GET_DATA}")
    with ExitStack() as files:
        found = parse(
            {
                name: files.enter_context(
                    Path(place, name).open(encoding="utf-8-sig", newline="")
                )
                for name in FILES
            }
        )
    for name, count in found.rows.items():
        if count != COUNTS[name]:
            raise ValueError(
                f"root={place!r}: {name} has {count:,} rows, WANDS has "
                f"{COUNTS[name]:,}; {_GET_DATA}"
            )
    return found


def parse(files: Mapping[str, Iterable[str]]) -> Catalogue:
    """Read the lines of the three files; see `read_catalogue`.

    A product that one query has two different labels for is left out there.
    """
    products = {
        row["product_id"]: Product(
            row["product_id"],
            row["product_name"],
            row["product_class"],
            row["product_description"],
            parse_features(row["product_features"]),
            row["average_rating"],
        )
        for row in _rows(PRODUCTS, files[PRODUCTS])
    }
    queries = {row["query_id"]: row["query"] for row in _rows(QUERIES, files[QUERIES])}
    labels: dict[str, dict[str, str]] = {name: {} for name in queries}
    disputed = set()
    count = 0
    for count, row in enumerate(_rows(LABELS, files[LABELS]), 1):
        query, product, label = row["query_id"], row["product_id"], row["label"]
        if query not in queries or product not in products:
            raise ValueError(
                f"{LABELS}: row {count} is for query {query!r} and product {product!r},"
                f" which {QUERIES} and {PRODUCTS} do not both have; {_GET_DATA}"
            )
        if label not in (EXACT, PARTIAL, IRRELEVANT):
            raise ValueError(
                f"{LABELS}: row {count} has the label {label!r}, not {EXACT}, {PARTIAL}"
                f" or {IRRELEVANT}; {_GET_DATA}"
            )
        if labels[query].setdefault(product, label) != label:
            disputed.add((query, product))
    for query, product in disputed:
        del labels[query][product]
    rows = {PRODUCTS: len(products), QUERIES: len(queries), LABELS: count}
    return Catalogue(products, queries, labels, rows)


def parse_features(text: str) -> dict[str, str]:
    """Read ``name:value|name:value``; values of one name are joined by commas."""
    found: dict[str, list[str]] = {}
    for part in text.split("|"):
        name, _, value = part.partition(":")
        if (key := feature_key(name)) and value.strip():
            values = found.setdefault(key, [])
            if value.strip() not in values:
                values.append(value.strip())
    return {key: ", ".join(values) for key, values in found.items()}


def feature_key(name: str) -> str:
    """Write a feature's name as WANDS does, in small letters without blanks."""
    return re.sub(r"[\W_]+", "", name).lower()


def _rows(name: str, lines: Iterable[str]) -> Iterator[dict[str, str]]:
    """Yield the rows of a file as the columns that are needed."""
    needed = _COLUMNS[name]
    read = 0
    try:
        reader = csv.reader(lines, delimiter="\t")
        header = next(reader, [])
        if lacking := [column for column in needed if column not in header]:
            raise ValueError(f"it has no column {', '.join(lacking)}")
        places = [header.index(column) for column in needed]
        seen = set()
        for row in reader:
            read += 1
            if len(row) != len(header):
                raise ValueError(f"it has {len(row)} columns, not {len(header)}")
            values = [well_formed(row[place].strip()) for place in places]
            if not values[0] or not values[1]:
                raise ValueError(f"{needed[0]} or {needed[1]} is blank")
            if name != LABELS and values[0] in seen:
                raise ValueError(f"{needed[0]}={values[0]!r} occurs twice")
            seen.add(values[0])
            yield dict(zip(needed, values, strict=True))
    except (csv.Error, ValueError) as error:  # also of what is not UTF-8
        raise ValueError(
            f"{name}: row {read} cannot be read: {error}; {_GET_DATA}"
        ) from error
