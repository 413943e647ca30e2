"""Effects by type of task: the formula against an oracle, and what it decides."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reskill_jax.codec import decode, encode
from reskill_jax.skills.skill import Skill, SkillBank
from reskill_jax.trials import calibration, thompson
from reskill_jax.trials.by_type import harmed, shrunk
from reskill_jax.trials.shape import Shape
from reskill_jax.trials.trial import Trial
from reskill_jax.trials.trial_config import TrialConfig


def oracle(effects, errors):
    """The formula, in plain Python, over the types that were played."""
    known = [c for c, s in enumerate(errors) if np.isfinite(s)]
    w = {c: errors[c] ** -2 for c in known}
    mean = sum(w[c] * effects[c] for c in known) / sum(w.values())
    q = sum(w[c] * (effects[c] - mean) ** 2 for c in known)
    scale = sum(w.values()) - sum(x * x for x in w.values()) / sum(w.values())
    tau2 = max(0.0, (q - (len(known) - 1)) / scale) if len(known) > 1 else 0.0
    v = {c: 1 / (tau2 + errors[c] ** 2) for c in known}
    mean = sum(v[c] * effects[c] for c in known) / sum(v.values())
    found = []
    for c in range(len(effects)):
        b = tau2 / (tau2 + errors[c] ** 2) if c in known else 0.0
        g = b * effects[c] + (1 - b) * mean if c in known else mean
        variance = b * errors[c] ** 2 if b else 0.0
        found.append((g, (variance + (1 - b) ** 2 / sum(v.values())) ** 0.5))
    return np.transpose(found)


on_host = thompson.on_host(shrunk)
TYPES = st.lists(
    st.tuples(st.floats(-0.5, 0.5), st.floats(0.02, 0.5) | st.just(np.inf)),
    min_size=1,
    max_size=6,
).filter(lambda rows: any(np.isfinite(s) for _, s in rows))


@settings(deadline=None)  # each number of types is compiled
@given(TYPES)
def test_the_formula_is_that_of_the_oracle(rows):
    effects, errors = map(list, zip(*rows, strict=True))
    np.testing.assert_allclose(
        on_host(effects, errors), oracle(effects, errors), 1e-6, 1e-9
    )


def test_alike_types_are_their_mean_and_different_ones_stay():
    g, s = shrunk([0.1, 0.0, 0.05], [0.1, 0.1, 0.1])
    np.testing.assert_allclose(g, [0.05] * 3, atol=1e-6)
    np.testing.assert_allclose(s, [0.1 / 3**0.5] * 3, atol=1e-6)
    g, _ = shrunk([0.5, -0.5], [0.01, 0.01])
    np.testing.assert_allclose(g, [0.5, -0.5], atol=1e-3)
    g, s = shrunk([0.3, 0.2], [np.inf, np.inf])
    assert g.tolist() == [0, 0]
    assert np.isinf(s).all()


def test_only_what_is_clear_is_harm():
    assert harmed([0.2, 0.2, -0.4], [0.05, 0.05, 0.05], 1).tolist() == [0, 0, 1]
    assert not harmed([0.1, 0.1, -0.05], [0.1, 0.1, 0.1], 1).any()  # by chance
    assert not harmed([-0.4, -0.4], [np.inf, np.inf], 1).any()


BANKS = (SkillBank(), SkillBank((Skill("a", "b", "c", "d"),)))


def decided(harm_errors, outcomes):
    """Twelve groups of eight of two types; successes of each arm of four by type."""
    config = TrialConfig(harm_errors=harm_errors, min_episodes=1)
    trial = Trial.start(config, BANKS)
    kinds = ["heat"] * 6 + ["look"] * 6
    rows = [
        (arm, k < outcomes[kinds[group]][arm], group, kinds[group])
        for group in range(12)
        for arm in (0, 1)
        for k in range(4)
    ]
    arms, successes, groups, found = zip(*rows, strict=True)
    for _ in range(8):
        trial.observe(arms, successes, groups, kinds=found)
        if decision := trial.decide():
            return decision, trial
    raise AssertionError("it was not decided")


def test_a_bundle_that_harms_one_type_is_rejected():
    mixed = {"heat": (0, 4), "look": (3, 2)}  # +100 and -25 points
    good = {"heat": (0, 4), "look": (2, 2)}
    decision, trial = decided(0.0, mixed)
    assert decision.accepted
    assert not trial.types()
    decision, trial = decided(1.0, mixed)
    assert not decision.accepted
    assert decision.reason == "harm"
    assert (decision.arm, decision.rejected) == (0, (1,))
    (found,) = trial.types()
    assert found["heat"]["effect"] == pytest.approx(1.0)
    assert found["look"]["effect"] == pytest.approx(-0.25)
    assert found["look"]["harmed"]
    assert not found["heat"]["harmed"]
    decision, _ = decided(1.0, good)
    assert decision.accepted
    assert decision.reason == "clear"


def test_it_survives_a_checkpoint():
    _, trial = decided(1.0, {"heat": (0, 4), "look": (3, 2)})
    again = decode(Trial, encode(trial))
    assert again.types() == trial.types()


def test_expected_rates_fall_and_only_a_little_where_all_types_are_alike():
    shape = Shape(16, 8)
    found = calibration.cases(shape, 8, 300)
    off = calibration.rates(shape, TrialConfig(), found)
    on = calibration.rates(shape, TrialConfig(harm_errors=1.0), found)
    assert on.null <= off.null
    assert on.harmful <= off.harmful
    assert off.helpful - 0.15 < on.helpful < off.helpful
    assert on.steps == off.steps
