"""The command that tries everything."""

from programs import ROOT

from reskill_jax.benchmarks import smoke


def test_it_runs_the_configurations_of_all_environments(monkeypatch):
    monkeypatch.chdir(ROOT)
    files = smoke.configurations()
    names = {file.removeprefix("configs/").removesuffix(".py") for file in files}
    assert {"alfworld", "scienceworld", "search", "sql", "wands"} <= names
