"""The stock loop and our environment say the same, and both are measured."""

import importlib.util
import os

import pytest

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("scienceworld") is None,
    reason="the extra `scienceworld` is not installed",
)


@pytest.mark.slow
def test_both_engines_say_the_same(monkeypatch):
    from reskill_jax.benchmarks import scienceworld

    monkeypatch.setenv("PATH", os.environ["PATH"])
    monkeypatch.setenv("JAVA_TOOL_OPTIONS", "")
    rollouts = scienceworld.draw_rollouts(3)
    assert len(rollouts) == 3 * scienceworld.GROUP
    some = [(task, commands[:6]) for task, commands in rollouts[::4]]
    ours, stock = (scienceworld.measure(name, some) for name in ("ours", "stock"))
    assert ours.pop("texts") == stock.pop("texts")
    assert ours.keys() == stock.keys()
    assert min(*ours.values(), *stock.values()) > 0
