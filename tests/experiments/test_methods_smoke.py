"""Every method writes and reads its own text, here where it takes seconds."""

import pytest
from programs import ROOT

from reskill_jax.experiments.methods import LEFT_OUT, Shown, smoke
from reskill_jax.strategies import NEED_BANK, STRATEGIES


@pytest.mark.slow
def test_every_method_reads_what_it_wrote_in_sample_questions(monkeypatch):
    monkeypatch.chdir(ROOT)
    names = [name for name in STRATEGIES if name not in LEFT_OUT]
    found = {shown.strategy: shown for shown in smoke("configs/search.py", names, 12)}
    assert [*found] == names
    for name, shown in found.items():
        assert shown.complete, shown
        assert (shown.wrote == 0) == (name in NEED_BANK)
        assert shown.wrote < shown.read
        assert shown.text


def test_what_was_never_read_is_not_complete():
    assert not Shown("a", "b", 1, None, "", 0.0).complete
    assert not Shown("a", "b", None, 1, "", 0.0).complete
    assert Shown("a", "b", 0, 1, "text", 0.0).complete
