"""What a task offers, which tasks there are, and what is refused of the files."""

import collections
import hashlib
import random

import msgspec
import pytest

from reskill_jax.environments.wands.files import (
    COUNTS,
    EXACT,
    FILES,
    IRRELEVANT,
    LABELS,
    PARTIAL,
    PRODUCTS,
    QUERIES,
    Catalogue,
    Product,
    feature_key,
    parse,
    parse_features,
    read_catalogue,
)
from reskill_jax.environments.wands.panels import Source, panel
from reskill_jax.environments.wands.settings import Settings
from reskill_jax.environments.wands.spec import load
from reskill_jax.environments.wands.synthetic import synthetic_files


def parsed(files):
    return parse({name: text.splitlines() for name, text in files.items()})


SYNTHETIC = parsed(synthetic_files())
BOTH = (2, 3)


def tasks(catalogue, split="train", candidates=BOTH, synthetic=False):
    return panel(lambda: catalogue, candidates, synthetic, split, None).tasks


def source(task):
    return msgspec.json.decode(task.source, type=Source)


def test_every_query_is_in_one_split_by_its_hash():
    found = {split: tasks(SYNTHETIC, split) for split in ("train", "dev", "test")}
    queries = {
        split: {task.id.split("/")[1].split("-")[0] for task in some}
        for split, some in found.items()
    }
    for split, places in (("train", range(7)), ("dev", [7]), ("test", [8, 9])):
        assert queries[split] == {
            query
            for query in SYNTHETIC.queries
            if int(hashlib.sha1(query.encode()).hexdigest(), 16) % 10 in places
        }
    kinds = collections.Counter(task.kind for task in found["train"])
    assert kinds["2-opt"] == kinds["3-opt"] == 2 * len(queries["train"])


def test_a_task_offers_one_exact_product_among_the_hardest_others():
    by_name = {product.name: product for product in SYNTHETIC.products.values()}
    texts = {text: query for query, text in SYNTHETIC.queries.items()}
    places = collections.Counter()
    for task in tasks(SYNTHETIC):
        asked = source(task)
        query = texts[asked.query]
        offers = [by_name[offer.name] for offer in asked.offers]
        labels = [SYNTHETIC.labels[query][product.id] for product in offers]
        assert len(labels) == int(task.kind[0])
        # There is no lack of those that fit in part and have the class.
        assert labels.count(PARTIAL) == len(labels) - 1
        assert labels[asked.right] == EXACT
        assert len({product.kind for product in offers}) == 1
        places[task.kind, asked.right] += 1
    assert len(places) == 2 + 3
    assert min(places.values()) > 0.5 * max(places.values())  # no place is favoured


def product(name, kind="Rugs", features="color:red", title=None):
    return Product(name, title or f"Rug {name}", kind, "", parse_features(features), "")


def made(labels, **products):
    """A catalogue of one query."""
    every = {name: product(name) for name in labels} | products
    return Catalogue(every, {"0": "red rug"}, {"0": labels}, {})


def split_of_query_zero():
    place = int(hashlib.sha1(b"0").hexdigest(), 16) % 10
    return "train" if place < 7 else "dev" if place == 7 else "test"


def offered(catalogue, candidates=(3,)):
    """The names of what each task offers beside the right product, and of that."""
    found = tasks(catalogue, split_of_query_zero(), candidates)
    named = {item.name: item.id for item in catalogue.products.values()}
    for task in found:
        asked = source(task)
        right = asked.offers[asked.right].name
        others = {named[o.name] for o in asked.offers if o.name != right}
        yield named[right], others


def test_negatives_are_of_the_same_class_then_partial_then_irrelevant():
    labels = {"a": EXACT, "b": PARTIAL, "c": PARTIAL, "d": IRRELEVANT, "e": IRRELEVANT}
    other_class = made(labels, c=product("c", "Mats"))
    assert [*offered(other_class, (2,))] == [("a", {"b"})]
    assert [*offered(other_class)] == [("a", {"b", "c"})]
    assert [*offered(made({"a": EXACT, "b": PARTIAL, "d": IRRELEVANT}))] == [
        ("a", {"b", "d"})
    ]


def test_products_that_cannot_be_told_apart_are_not_offered():
    labels = {"a": EXACT, "b": PARTIAL, "c": PARTIAL, "d": IRRELEVANT, "x": EXACT}
    found = made(
        labels,
        b=product("b", title="RUG a"),
        c=product("c", features=""),
        x=product("x", features=" "),
    )
    assert [*offered(found)] == []
    assert [*offered(found, (2,))] == [("a", {"d"})]


def test_a_query_has_at_most_four_tasks_and_those_without_an_exact_product_none():
    many = {str(n): EXACT for n in range(9)} | {"p": PARTIAL, "q": IRRELEVANT}
    assert len([*offered(made(many))]) == 4
    assert len({right for right, _ in offered(made(many))}) == 4
    assert [*offered(made({"p": PARTIAL, "q": IRRELEVANT}))] == []
    assert [*offered(made({"a": EXACT, "b": EXACT}))] == []


def test_tasks_depend_on_no_order_and_on_no_other_query():
    files = synthetic_files()
    rng = random.Random(0)
    for name in FILES:
        head, *rows = files[name].splitlines()
        rng.shuffle(rows)
        files[name] = "\n".join([head, *rows])
    for split in ("train", "dev", "test"):
        assert tasks(parsed(files), split) == tasks(SYNTHETIC, split)
    head, *rows = synthetic_files()[LABELS].splitlines()
    some = [row for row in rows if int(row.split("\t")[1]) % 2]  # of odd queries
    files[LABELS] = "\n".join([head, *some])
    fewer = tasks(parsed(files))
    assert fewer
    assert {*fewer} < {*tasks(SYNTHETIC)}


def test_the_hash_of_a_panel_covers_what_is_shown():
    before = panel(lambda: SYNTHETIC, BOTH, False, "train", None).hash
    changed = synthetic_files()
    changed[PRODUCTS] = changed[PRODUCTS].replace("comes in grey", "comes in gray")
    assert panel(lambda: parsed(changed), BOTH, False, "train", None).hash != before


def test_a_limit_keeps_both_kinds():
    limited = panel(lambda: SYNTHETIC, BOTH, False, "train", 10)
    assert collections.Counter(task.kind for task in limited) == {
        "2-opt": 5, "3-opt": 5,
    }  # fmt: skip


def test_synthetic_tasks_say_so_in_kinds_and_splits(caplog):
    spec = load(Settings(synthetic=True), workers=1)
    kinds = {
        task.kind
        for split in ("train", "synthetic_dev", "synthetic")
        for task in spec.panel(split, None)
    }
    assert kinds == {"synthetic-2-opt", "synthetic-3-opt"}
    assert "synthetic products and queries: no figure" in caplog.text
    with pytest.raises(ValueError, match="split='test': choose one of synthetic"):
        spec.panel("test", None)
    with pytest.raises(ValueError, match="split='synthetic': choose one of train"):
        panel(lambda: SYNTHETIC, BOTH, False, "synthetic", None)


def write(folder, files):
    for name, text in files.items():
        (folder / name).write_text(text)


def test_the_loader_says_what_to_download(tmp_path, monkeypatch):
    monkeypatch.delenv("WANDS_DATA", raising=False)
    get = r"download product.csv, query.csv, label.csv from .*wayfair/WANDS"
    with pytest.raises(ValueError, match=rf"root='' and WANDS_DATA='': .*; {get}"):
        read_catalogue("")
    files = synthetic_files()
    write(tmp_path, files)
    (tmp_path / LABELS).unlink()
    with pytest.raises(ValueError, match=rf"root=.*: no label.csv there; {get}"):
        read_catalogue(str(tmp_path))
    write(tmp_path, files)
    monkeypatch.setenv("WANDS_DATA", str(tmp_path))
    with pytest.raises(
        ValueError, match=rf"product.csv has 144 rows, WANDS has 42,994; {get}"
    ):
        read_catalogue("")


def test_files_with_the_published_counts_are_read(tmp_path):
    head, *rows = synthetic_files()[PRODUCTS].splitlines()
    cells = [row.split("\t", 1)[1] for row in rows]
    products = (
        f"{number}\t{cells[number % len(cells)]}" for number in range(COUNTS[PRODUCTS])
    )
    queries = (f"{number}\tquery {number}\t" for number in range(COUNTS[QUERIES]))
    labels = (
        f"{number}\t{number % COUNTS[QUERIES]}\t{number % COUNTS[PRODUCTS]}\t"
        f"{(EXACT, PARTIAL, IRRELEVANT)[number % 7 % 3]}"
        for number in range(COUNTS[LABELS])
    )
    write(
        tmp_path,
        {
            # As a spreadsheet saves them: with a byte order mark, with CRLF.
            PRODUCTS: "\ufeff" + "\r\n".join([head, *products]),
            QUERIES: "\n".join(["query_id\tquery\tquery_class", *queries]),
            LABELS: "\n".join(["id\tquery_id\tproduct_id\tlabel", *labels]),
        },
    )
    assert read_catalogue(str(tmp_path)).rows == COUNTS
    spec = load(Settings(root=str(tmp_path)), workers=1)
    assert len(spec.panel("train", None)) == 8 * sum(
        int(hashlib.sha1(str(n).encode()).hexdigest(), 16) % 10 < 7 for n in range(480)
    )


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        (PRODUCTS, "product_features", "features", "row 0 .* no column product_feat"),
        (PRODUCTS, "0\tAldmoor", "0\tx\tAldmoor", "row 1 .* it has 10 columns, not 9"),
        (PRODUCTS, "1\tBrinfell", "0\tBrinfell", "row 2 .* product_id='0' occurs"),
        (QUERIES, "0\tgrey sofas in oak", "0\t ", "row 1 .* query_id or query is bla"),
        (LABELS, "\tExact", "\tPerfect", "has the label 'Perfect', not Exact"),
        (LABELS, "0\t0\t0\t", "0\t0\t9999\t", "for query '0' and product '9999'"),
    ],
)
def test_what_is_wrong_with_a_row_is_named(name, old, new, message):
    files = synthetic_files()
    files[name] = files[name].replace(old, new, 1)
    with pytest.raises(ValueError, match=rf"{name}: .*{message}"):
        parsed(files)


def test_a_product_with_two_labels_for_a_query_is_not_used_there():
    files = synthetic_files()
    files[LABELS] += "99999\t0\t0\tIrrelevant\n99999\t0\t1\tExact\n"
    found = parsed(files).labels
    assert "0" not in found["0"]
    assert found["0"]["1"] == EXACT  # said twice, but the same
    assert "0" in found["1"]


def test_features_are_read_with_glued_names_and_several_values():
    text = "overallwidth : 70|color:grey|color:blue|color:grey|empty:|:x|a:b:c"
    assert parse_features(text) == {
        "overallwidth": "70", "color": "grey, blue", "a": "b:c",
    }  # fmt: skip
    assert feature_key("Overall_Width - in") == "overallwidthin"
