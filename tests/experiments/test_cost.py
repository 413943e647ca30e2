"""What the costs of a run are read from."""

import pytest

from reskill_jax.benchmarks.llm_server import LlmServer
from reskill_jax.benchmarks.overhead import changes, make_script
from reskill_jax.benchmarks.runs import configuration
from reskill_jax.experiments.cost import PUBLISHED, costs, server_port
from reskill_jax.report.metrics import MetricWriter
from reskill_jax.workdir import Workdir


def line(prefix, prompt, response, **others):
    return {
        f"{prefix}/prompt_tokens": prompt,
        f"{prefix}/response_length/mean": response,
        **others,
    }


def test_costs_leave_out_the_step_that_compiles(tmp_path):
    run = Workdir(tmp_path)
    writer = MetricWriter(run.metrics)
    for step, (prompt, seconds) in enumerate([(900, 90), (100, 2), (120, 3)], 1):
        times = {"time/step": seconds, "time/update": 1.0}
        writer.write(step, line("rollout", prompt, 10, **times))
    with pytest.raises(ValueError, match="no second step, or no evaluation"):
        costs(run)
    end = {"valid_unseen/turns": 4.0, "time/valid_unseen": 96.0}
    writer.write(3, line("valid_unseen", 150, 5, **end), phase="eval")
    found = costs(run)
    assert set(found) == set(PUBLISHED)
    assert found["training context"] == 120
    assert found["training step time"] == 2.5
    assert found["inference context"] == 155
    assert found["inference time per turn"] == pytest.approx(96 / (4 * 48))


def test_a_server_comes_back_where_runs_look_for_it(tmp_path):
    runs = [tmp_path / "grpo", tmp_path / "reskill"]
    assert server_port(runs) == 0
    with LlmServer(make_script()) as first:
        Workdir(runs[1]).bind(configuration(changes(first.url)).to_dict())
    with LlmServer(make_script(), port=server_port(runs)) as again:
        assert again.url == first.url
