"""Every method writes and reads its own text, here where it takes seconds."""

import pytest
from programs import ROOT

from reskill_jax.experiments.methods import LEFT_OUT, TOKENS, Shown, Spent, smoke
from reskill_jax.strategies import NEED_BANK, STRATEGIES


@pytest.mark.slow
def test_every_method_reads_what_it_wrote_in_sample_questions(monkeypatch):
    monkeypatch.chdir(ROOT)
    names = [name for name in STRATEGIES if name not in LEFT_OUT]
    grpo, *others = smoke("configs/search.py", ["grpo", *names], 12)
    found = {shown.strategy: shown for shown in others}
    assert [*found] == names
    for name, shown in found.items():
        assert shown.complete, shown
        assert (shown.wrote == 0) == (name in NEED_BANK)
        assert shown.wrote < shown.read
        assert shown.text
        assert shown.spent.by_turn or shown.spent.over(grpo.spent) <= TOKENS


NOTHING = Spent(0, 0, 0, False)


def test_tokens_are_those_of_as_many_turns_of_grpo_and_the_opening_once():
    """Ten turns of 30 tokens and an opening of 100: again at every turn it is 3.25."""
    grpo = Spent(600, 0, 20, False)
    assert Spent(400, 100, 10, False).over(grpo) == 1
    assert Spent(300 + 10 * 100, 100, 10, False).over(grpo) == 3.25


def test_what_was_never_read_is_not_complete():
    assert not Shown("a", "b", 1, None, "", 0.0, NOTHING).complete
    assert not Shown("a", "b", None, 1, "", 0.0, NOTHING).complete
    assert Shown("a", "b", 0, 1, "text", 0.0, NOTHING).complete
