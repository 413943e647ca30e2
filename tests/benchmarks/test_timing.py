"""How computations are timed against each other."""

from reskill_jax.benchmarks import timing


def test_the_best_of_each_in_turn_counts(monkeypatch):
    clock = iter([0.0, 3.0, 10.0, 11.0, 20.0, 21.0, 30.0, 35.0])
    monkeypatch.setattr(timing.time, "perf_counter", lambda: next(clock))
    called = []
    steps = [lambda: called.append("a"), lambda: called.append("b")]
    assert timing.in_turn(steps, 2) == [1.0, 1.0]
    assert called == ["a", "b", "a", "b", "a", "b"]
