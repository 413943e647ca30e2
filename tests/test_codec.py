"""What is kept or sent comes back as it was, and damaged documents are refused."""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from reskill_jax.codec import CodecError, decode, encode
from reskill_jax.creator.proposal import Evidence, PastTrial, Proposal
from reskill_jax.creator.reservoir import Tally
from reskill_jax.environments.protocol import Task
from reskill_jax.rollout.episode import Episode, Turn
from reskill_jax.rollout.prefetch import Batch
from reskill_jax.skills import checks
from reskill_jax.skills.assertions import Assertion
from reskill_jax.skills.contrast import Contrast
from reskill_jax.skills.episode_record import EpisodeRecord
from reskill_jax.skills.operations import Add, Delete, Modify, Operation
from reskill_jax.skills.skill import Skill, SkillBank, Trigger
from reskill_jax.trials.discount import MemoryEstimate
from reskill_jax.trials.trial import Trial
from reskill_jax.trials.trial_config import TrialConfig

text = st.text(max_size=8)
count = st.integers(0, 2**40)
number = st.floats(allow_nan=False, allow_infinity=False)
patterns = st.sampled_from(["^go to ", "closed", r"\bhot\b"])


def tuples(items, size=3):
    return st.lists(items, max_size=size).map(tuple)


def array(dtype, *shape):
    sizes = st.tuples(*[st.integers(0, 4) if n is None else st.just(n) for n in shape])
    return sizes.flatmap(lambda size: arrays.arrays(dtype, size))


triggers = st.sampled_from(
    [Trigger(), Trigger("beginning"), Trigger("action_pattern", "^take .*")]
)
skills = st.builds(
    Skill, text, text, text, text, triggers, example=text, version=st.integers(1, 99)
)
banks = st.builds(SkillBank, tuples(skills))
operations = st.one_of(
    st.builds(Add, skills),
    st.builds(Modify, text, st.dictionaries(text, text | triggers, max_size=3)),
    st.builds(Delete, text),
)
proposals = st.builds(Proposal, tuples(operations), tuples(text), tuples(text), text)
contrasts = st.builds(
    Contrast, number, st.none() | number, number, st.none() | number, st.none()
)
past_trials = st.builds(
    PastTrial, count, proposals, text, tuples(text), st.booleans(), contrasts
)
records = st.builds(
    EpisodeRecord,
    task=text,
    kind=text,
    goal=text,
    bank=text,
    step=count,
    success=st.booleans(),
    actions=tuples(text),
    observations=tuples(text),
    active_skills=tuples(tuples(text)),
    valid=tuples(st.booleans()),
)
tallies = st.builds(
    Tally, text, count, count, count, st.dictionaries(text, count, max_size=3)
)
kinds_of_check = st.one_of(
    st.builds(checks.ActionExists, patterns),
    st.builds(checks.ActionNotExists, patterns),
    st.builds(checks.ActionBefore, patterns, patterns),
    st.builds(checks.FinalAction, patterns),
    st.builds(checks.NoConsecutiveRepeat, st.integers(2, 4), patterns, st.just(9)),
    st.builds(checks.MinSteps, st.integers(1, 9)),
    st.builds(checks.MaxSteps, st.integers(1, 9)),
    st.builds(checks.ActionCount, patterns, st.just(1), st.none() | st.integers(1, 9)),
    st.builds(checks.ObservationContains, patterns, patterns),
)
assertions = st.builds(
    Assertion,
    kinds_of_check,
    st.just("an-id"),
    patterns,
    st.none() | kinds_of_check,
)
trials = st.builds(
    Trial,
    st.sampled_from([TrialConfig(), TrialConfig.preset("paper")]),
    st.just(("a", "b")),
    st.just((0, 1)),
    st.none() | number,
    st.just(((1.0, 2.5), (0.1, 1.0))),
    st.lists(array(np.int64, None, 2, 2), max_size=3),
    st.lists(array(np.int64, None, 2, 2), max_size=3),
    st.lists(tuples(text), max_size=3),
    st.lists(st.integers(1, 2), max_size=2),
)


@st.composite
def episodes(draw, group=0, index=0):
    trunk = draw(array(np.int32, None))
    turns = [
        Turn(
            window=0,
            trunk_length=draw(st.integers(0, len(trunk))),
            branch=draw(array(np.int32, None)),
            response=draw(array(np.int32, size)),
            logprobs=draw(array(np.float32, size)),
            version=draw(count),
            observation=draw(text),
            text=draw(text),
            action=draw(text),
            valid=draw(st.booleans()),
            active_skills=draw(tuples(text)),
            reward=draw(number),
            stopped=draw(st.booleans()),
        )
        for size in draw(st.lists(st.integers(0, 3), max_size=3))
    ]
    return Episode(
        task=draw(st.builds(Task, text, text, text, text)),
        group=group,
        index=index,
        arm=draw(count),
        context=draw(text),
        goal=draw(text),
        trunks=[trunk],
        turns=turns,
        final_observation=draw(text),
        reward=draw(number),
        success=draw(st.booleans()),
        scores=draw(st.dictionaries(text, number)),
    )


KINDS = {
    SkillBank: banks,
    Operation: operations,
    Proposal: proposals,
    PastTrial: past_trials,
    EpisodeRecord: records,
    Tally: tallies,
    Assertion: assertions,
    Evidence: st.builds(
        Evidence, banks, tuples(records), tuples(tallies), tuples(past_trials), count
    ),
    Trial: trials,
    MemoryEstimate: st.builds(MemoryEstimate, st.lists(number, max_size=4), count),
    Episode: episodes(),
    Batch: st.builds(
        Batch, st.lists(episodes(), max_size=2), tuples(count), number, number
    ),
}
every_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: str(kind)[-20:])


def through_json(value: Any) -> Any:
    return json.loads(json.dumps(encode(value)))


@every_kind
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_every_value_comes_back_as_it_was(kind, data):
    value = data.draw(KINDS[kind])
    again = decode(kind, through_json(value))
    assert through_json(again) == through_json(value)
    assert type(again) is type(value)
    if kind not in (Trial, Episode, Batch):  # arrays have no truth value
        assert again == value


def places(document: Any) -> Iterator[tuple[Any, Any]]:
    """Yield every container of a document with every key of it."""
    if isinstance(document, dict | list):
        keys = document if isinstance(document, dict) else range(len(document))
        for key in keys:
            yield document, key
            yield from places(document[key])


@every_kind
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_a_document_with_a_field_of_another_type_is_refused(kind, data):
    document = through_json(data.draw(KINDS[kind]))
    found = list(places(document))
    if not found:
        return
    container, key = data.draw(st.sampled_from(found))
    container[key] = {"damage": [1]}
    with pytest.raises(CodecError, match=r"Expected|unknown|Invalid|missing"):
        decode(kind, document)


@every_kind
@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_a_document_with_another_field_is_refused_by_its_name(kind, data):
    document = through_json(data.draw(KINDS[kind]))
    document["damage"] = 1
    with pytest.raises(CodecError, match=r"\.damage: this field is unknown"):
        decode(kind, document, name="it")
    assert through_json(decode(kind, document, fields="any")) == {
        key: value for key, value in document.items() if key != "damage"
    }


@every_kind
@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_a_document_without_one_of_its_fields_is_refused(kind, data):
    document = through_json(data.draw(KINDS[kind]))
    del document[data.draw(st.sampled_from(sorted(document)))]
    with pytest.raises(CodecError, match=r"missing|trunk of window=0 has 0 tokens"):
        decode(kind, document)


@dataclass
class Part:
    name: str
    size: float = 1.5


@dataclass
class Whole:
    parts: dict[str, list[Part]]
    tokens: NDArray[np.int32] = field(default_factory=lambda: np.zeros(0, np.int32))
    count: int | None = None

    def __post_init__(self):
        if self.count == 13:
            raise ValueError("count=13: give another")


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (3, "Whole: Expected `object`, got `int`"),
        ({}, "Whole: Object missing required field `parts`"),
        ({"parts": []}, "Whole.parts: Expected `object`, got `array`"),
        (
            {"parts": {"a": [{"name": "x"}, {"name": 2}]}},
            "Whole.parts[...][1].name: Expected `str`, got `int`",
        ),
        (
            {"parts": {}, "count": True},
            "Whole.count: Expected `int | null`, got",
        ),
        ({"parts": {}, "count": "1"}, "Whole.count: Expected `int | null`, got `str`"),
        ({"parts": {}, "count": 13}, "Whole: count=13: give another"),
        ({"parts": {}, "more": 1}, "Whole.more: this field is unknown"),
        ({"parts": {}, "tokens": [1]}, "Whole.tokens: Expected `str`, got `list`"),
        (
            {"parts": {}, "tokens": "AAAA"},
            "Whole.tokens: Expected an array, got 'AA",
        ),
        ({"parts": {}, "tokens": "<i4[1]:AAA*"}, "Whole.tokens: "),
        ({"parts": {}, "tokens": "<i4[1]:AAAA"}, "Whole.tokens: buffer size"),
        ({"parts": {}, "tokens": "<i4[2]:AAAAAA=="}, "Whole.tokens: cannot reshape"),
        ({"parts": {}, "tokens": "<f4[1]:AAAAAA=="}, "Whole.tokens: Cannot cast"),
        ({"parts": {}, "tokens": "|O8[1]:AAAAAAAAAAA="}, "Whole.tokens: Expected an"),
    ],
)
def test_errors_name_the_field_what_was_found_and_what_is_expected(document, message):
    with pytest.raises(CodecError) as error:
        decode(Whole, document)
    assert str(error.value).startswith(message)


@pytest.mark.parametrize("dtype", ["<i4", ">i4", "int64", "uint8", "bool", "<f4", "f2"])
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 0, 2), (2, 3)])
def test_arrays_keep_type_shape_and_bits(dtype, shape):
    rng = np.random.default_rng(0)
    value = rng.integers(0, 200, shape).astype(dtype)
    again = decode(np.ndarray, json.loads(json.dumps(encode(value))))
    np.testing.assert_array_equal(again, value)
    assert again.shape == shape
    assert again.dtype == value.dtype.newbyteorder("=")
    if again.size:
        again[...] = 0  # one's own, to write in


def test_arrays_get_the_type_that_their_field_has():
    value = Whole({}, np.arange(3, dtype=np.int64))
    again = decode(Whole, through_json(value))
    assert again.tokens.dtype == np.int32
    np.testing.assert_array_equal(again.tokens, value.tokens)
    special = np.array([np.nan, -np.inf, -0.0, 1e-45], np.float32)
    again = decode(NDArray[np.float32], encode(special))
    assert again.tobytes() == special.tobytes()


def test_numbers_of_numpy_are_numbers():
    document = encode({"a": np.float64(0.1), "b": np.int32(3), "c": np.bool_(True)})
    assert json.dumps(document) == '{"a": 0.1, "b": 3, "c": true}'
    assert decode(Part, {"name": "x", "size": 2}) == Part("x", 2.0)


def test_what_others_wrote_may_lack_defaults_and_have_more_fields():
    document = {"parts": {"a": [{"name": "x"}]}, "tokens": "<i4[0]:", "count": None}
    with pytest.raises(CodecError, match=r"Whole\.parts\.a\[0\]\.size: .* missing"):
        decode(Whole, document)
    assert decode(Whole, document, fields="known").parts == {"a": [Part("x")]}
    document["parts"]["a"][0]["more"] = 1
    with pytest.raises(CodecError, match=r"Whole\.parts\.a\[0\]\.more: .* unknown"):
        decode(Whole, document, fields="known")
    assert decode(Whole, document, fields="any").parts == {"a": [Part("x")]}


@pytest.mark.parametrize("value", [object(), np.array([object()]), np.array(["a"])])
def test_what_has_no_json_form_is_named(value):
    with pytest.raises(TypeError, match="has no JSON form"):
        encode({"a": [value]})


def test_infinity_is_left_to_whoever_writes_the_text():
    assert encode(Part("x", math.inf)) == {"name": "x", "size": math.inf}
