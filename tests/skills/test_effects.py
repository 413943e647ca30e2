"""What is said of a skill, by its effect on log-probs over time."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reskill_jax.skills.effects import TURNS, StepEffects, judge

ZERO = [0.004, -0.004, 0.002, -0.001]
SOME = [0.3, 0.0, 0.9, 0.1]


def course(*steps, per_step=12):
    """Steps with these effects over and over, and so many wins of 10 episodes."""
    return [
        StepEffects(k, effects * (per_step // len(effects)), 10, wins)
        for k, (effects, wins) in enumerate(steps)
    ]


@pytest.mark.parametrize(
    ("steps", "verdict"),
    [
        ([(ZERO, 5)] * 8, "ignored"),
        ([(SOME, 5)] * 8, "followed"),
        ([(SOME, 5)] * 4 + [(ZERO, 6)] * 4, "internalised"),
        ([(SOME, 8)] * 4 + [(ZERO, 2)] * 4, "unclear"),  # success has gone, too
        ([(ZERO, 5)] * 4 + [(SOME, 5)] * 4, "followed"),
        ([(SOME, 5)] * 3, "unclear"),  # too few turns
        ([([0.05, -0.04], 5)] * 8, "unclear"),  # too noisy to be called 0
    ],
)
def test_verdicts(steps, verdict):
    effect = judge("heat-first", course(*steps))
    assert effect.verdict == verdict
    assert effect.turns == 12 * len(steps)
    assert str(effect).startswith(f"{verdict}: responses are ")


def test_the_first_and_the_newest_turns_are_told():
    effect = judge("a", course(*[([0.2, 0.4], 5)] * 4, *[([0.0, 0.002], 5)] * 4))
    assert (effect.first, effect.mean) == (pytest.approx(0.3), pytest.approx(0.001))
    assert str(effect) == (
        "internalised: responses are 0.001 nats per token likelier with it, 0.300 at "
        "first (96 turns)"
    )


def test_nothing_is_said_where_nothing_was_scored():
    assert judge("a", []) is None
    assert judge("a", [StepEffects(1, [], 9, 9)]) is None


@given(
    st.lists(
        st.builds(
            StepEffects,
            st.just(1),
            st.lists(st.floats(-1, 1), max_size=60),
            st.integers(5, 9),
            st.integers(0, 5),
        ),
        max_size=5,
    )
)
def test_every_course_has_a_verdict_and_short_ones_none_but_unclear(steps):
    effect = judge("a", steps)
    turns = sum(len(point.effects) for point in steps)
    assert (effect is None) == (turns == 0)
    if effect and turns < TURNS:
        assert effect.verdict == "unclear"
