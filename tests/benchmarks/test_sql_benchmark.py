from reskill_jax.benchmarks.sql import measure
from reskill_jax.environments.sql.settings import Settings


def test_every_gold_of_the_sample_wins(tmp_path, monkeypatch):
    monkeypatch.setenv("RESKILL_CACHE", str(tmp_path))
    times, won = measure(Settings(sample=True))
    assert [len(taken) for taken in times.values()] == [35, 35, 35]
    assert won == 35
