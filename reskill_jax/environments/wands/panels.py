"""Which products a task offers, and which tasks are in which split: all of it is ours.

The paper names WANDS with "2-opt and 3-opt optimization horizons" and defines neither.
Here k-opt is a query with k products, one of which is labelled Exact. The others are
hard to tell from it: first those that fit in part and have its class, then others that
fit in part, then those that do not fit. Everything follows from hashes of ids, so that
neither the order of files nor other queries change a task.

    train    queries whose hash ends in 0 to 6 of 10
    dev      7, for choices
    test     8 and 9, reported
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence

import msgspec

from reskill_jax.environments.panels import TaskPanel, evenly_spaced
from reskill_jax.environments.task import Task
from reskill_jax.environments.tfds import read
from reskill_jax.environments.wands.files import EXACT, PARTIAL, Catalogue, Product

SPLITS = {"train": range(7), "dev": (7,), "test": (8, 9)}
# Synthetic tasks are called so wherever their figures stand.
SYNTHETIC = {"train": "train", "synthetic_dev": "dev", "synthetic": "test"}
MOST_TASKS = 4  # per query and number of products


class Offer(msgspec.Struct, frozen=True):
    """One product of a task."""

    name: str
    kind: str
    rating: str
    description: str
    features: dict[str, str]


class Source(msgspec.Struct, frozen=True):
    """What a task's `source` holds, as JSON.

    Attributes:
        query: of the shopper.
        offers: the products, in the order of their numbers.
        right: index of the one that is Exact.
    """

    query: str
    offers: tuple[Offer, ...]
    right: int


def panel(
    catalogue: Callable[[], Catalogue],
    candidates: Sequence[int],
    synthetic: bool,
    split: str,
    limit: int | None,
) -> TaskPanel:
    """Return the tasks of a split, sorted by kind, then in the order of hashes.

    Args:
        catalogue: reads products and queries.
        candidates: numbers of products per task, e.g. (2, 3).
        synthetic: whether the catalogue is invented, which kinds and splits then say.
        split: train, dev or test; of synthetic ones train, synthetic_dev or synthetic.
        limit: at most so many, spread over all kinds.

    Raises:
        ValueError: there is no such split.
    """
    names = SYNTHETIC if synthetic else dict(zip(SPLITS, SPLITS, strict=True))
    _check(split, names)
    found = catalogue()
    tasks = [
        Task(f"{kind}/{name}", kind, split, msgspec.json.encode(source).decode())
        for query in sorted(found.queries, key=_digest)
        if int(_sha1(query), 16) % 10 in SPLITS[names[split]]
        for k in candidates
        for kind in [f"synthetic-{k}-opt" if synthetic else f"{k}-opt"]
        for name, source in _sources(found, query, k)
    ]
    tasks.sort(key=lambda task: task.kind)
    return TaskPanel(evenly_spaced(tasks, limit))


def read_panel(
    source: str, candidates: Sequence[int], split: str, limit: int | None
) -> TaskPanel:
    """Return the tasks of a split as `panel` does, from a TensorFlow dataset.

    Raises:
        ValueError: there is no such split.
        FileNotFoundError: there is no such dataset.
    """
    kinds = tuple(f"{k}-opt" for k in candidates)
    tasks = [task for task in read(source, split) if task.kind.endswith(kinds)]
    return TaskPanel(evenly_spaced(tasks, limit))


def _sources(catalogue: Catalogue, query: str, k: int) -> Iterator[tuple[str, Source]]:
    """Yield the tasks of a query with `k` products, each with an id that covers it."""
    labels = catalogue.labels[query]
    usable = [
        (catalogue.products[name], label)
        for name, label in labels.items()
        if catalogue.products[name].features
    ]
    exact = [product for product, label in usable if label == EXACT]
    exact.sort(key=lambda product: _digest(query, str(k), product.id))
    made = 0
    for right in exact:
        if made == MOST_TASKS:
            return
        others = _others(right, usable, f"{query}/{k}/{right.id}", k - 1)
        if len(others) < k - 1:
            continue
        made += 1
        offers = sorted(
            (right, *others), key=lambda p: _digest(query, right.id, p.id, "place")
        )
        source = Source(
            catalogue.queries[query],
            tuple(map(_offer, offers)),
            offers.index(right),
        )
        content = msgspec.json.encode(source).decode()
        yield f"{query}-{right.id}@{_digest(content)[:8]}", source


def _others(
    right: Product, usable: Sequence[tuple[Product, str]], salt: str, count: int
) -> list[Product]:
    """Return the hardest products beside `right`; fewer where there are no more."""

    def hardness(pair: tuple[Product, str]) -> tuple[int, str]:
        product, label = pair
        tier = 2 if label != PARTIAL else int(product.kind != right.kind)
        return tier, _digest(salt, product.id)

    wrong = sorted((pair for pair in usable if pair[1] != EXACT), key=hardness)
    names = {right.name.casefold()}
    chosen: list[Product] = []
    for product, _ in wrong:
        if len(chosen) == count:
            break
        if product.name.casefold() not in names:
            names.add(product.name.casefold())
            chosen.append(product)
    return chosen


def _offer(product: Product) -> Offer:
    return Offer(
        product.name,
        product.kind,
        product.rating,
        product.description,
        dict(product.features),
    )


def _check(split: str, names: dict[str, str]) -> None:
    if split not in names:
        synthetic = " of synthetic products" if "synthetic" in names else ""
        raise ValueError(
            f"split={split!r}: choose one{synthetic} of {', '.join(names)}"
        )


def _sha1(text: str) -> str:
    return hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


def _digest(*texts: str) -> str:
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()
