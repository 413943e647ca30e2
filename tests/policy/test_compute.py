"""Settings of a computation: checked when they are made, and equal by value."""

import pytest

from reskill_jax.policy.compute import Compute


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"remat": "some"}, "remat='some': choose one of none, full, dots, offload"),
        ({"attention_backend": "auto"}, "attention_backend='auto': choose one of xla"),
        ({"logprob_chunk": 0}, "logprob_chunk=0: give a number of tokens above 0"),
    ],
)
def test_wrong_values_are_named(wrong, message):
    with pytest.raises(ValueError, match=message):
        Compute(**wrong)


def test_programs_compiled_for_equal_settings_are_shared():
    assert hash(Compute("dots")) == hash(Compute(remat="dots"))
    assert Compute("dots") == Compute(remat="dots")
    assert Compute("dots") != Compute("dots", logprob_chunk=256)
