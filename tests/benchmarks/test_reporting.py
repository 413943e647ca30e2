"""The last line of a benchmark is one JSON object, whatever its numbers are."""

import json

import numpy as np

from reskill_jax.benchmarks.reporting import Bar, report


def test_numbers_of_numpy_are_reported_and_those_that_are_none_left_out(capsys):
    bars = {"a": Bar(np.float64(2), 1.0), "b": Bar(np.float32(2), 1.0, at_most=True)}
    report("name", {"x": np.float64(0.5), "y": float("nan")}, bars)
    document = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert document["figures"] == {"x": 0.5}
    assert [bar["met"] for bar in document["bars"].values()] == [True, False]
