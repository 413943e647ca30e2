"""What a run tells people while it goes on."""

import numpy as np
import pytest

from reskill_jax.environments.protocol import Task
from reskill_jax.report.logbook import Logbook, summary
from reskill_jax.rollout.episode import Episode, Turn
from reskill_jax.strategies.base import Static
from reskill_jax.workdir import Workdir

TASK = Task("train/a", "kind", "train", "")
NOTHING = np.zeros(1, np.int32)


def episode(arm, success):
    turn = Turn(0, 0, NOTHING, NOTHING, NOTHING, 0, "You see a mug.", "", "look", True)
    return Episode(TASK, 0, 0, arm, "bank", "goal", [], [turn], success=success)


@pytest.mark.parametrize(("difference", "warned"), [(0.021, True), (0.019, False)])
def test_warns_where_sampler_and_trainer_differ(tmp_path, capsys, difference, warned):
    logbook = Logbook(Workdir(tmp_path), total=2, done=0, logprob_diff_warning=0.02)
    metrics = {"rollout/logprob_diff": difference, "rollout/staleness": 0.0}
    logbook.step(1, metrics, [episode(0, True), episode(1, False)], Static())
    logbook.close()
    shown = capsys.readouterr().out
    assert ("WARNING: log-probs of sampler and trainer differ" in shown) == warned
    assert "success old 100% new 0%" in shown
    assert (tmp_path / "episodes" / "train-00001.jsonl").read_text().count("mug") == 2


def test_says_that_what_was_learnt_since_is_part_of_the_difference(tmp_path, capsys):
    logbook = Logbook(Workdir(tmp_path), total=2, done=0, logprob_diff_warning=0.02)
    metrics = {"rollout/logprob_diff": 0.03, "rollout/staleness": 1.0}
    logbook.step(1, metrics, [episode(0, True)], Static())
    logbook.close()
    shown = capsys.readouterr().out
    assert "0.03 nats on average, with what 1 updates have changed, above" in shown


def test_an_evaluation_is_told_by_split():
    metrics = {"a/success": 0.5, "a/success/look": 1.0, "b/success": 0.25, "a/turns": 3}
    assert summary(7, metrics) == "evaluation after 7 steps: a 50.0%, b 25.0%"
