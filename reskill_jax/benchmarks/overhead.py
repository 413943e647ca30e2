"""What does the method cost in time, with a language model that is slow?

    python -m reskill_jax.benchmarks.overhead [--variant=cpu] [--steps=12] [--repeats=3]

trains `grpo` and `reskill` on the same tasks, in turn, each run a fresh process. The
creator of `reskill` asks a scripted server that takes 20 seconds per call. The first
step, which compiles, does not count; of the repeats, the median does. Further
arguments are keys of the configuration, e.g. ``--config.policy.path=DIR``.
"""

import argparse
import json
import os
import statistics
import tempfile
from collections.abc import Callable, Sequence
from itertools import count
from pathlib import Path

from reskill_jax.benchmarks.llm_server import LlmServer
from reskill_jax.benchmarks.reporting import Bar, format_table, report
from reskill_jax.benchmarks.runs import Changes, finish
from reskill_jax.environments.alfworld.rules import HELPFUL
from reskill_jax.report.metrics import read_metrics
from reskill_jax.workdir import Workdir

TARGET = 1.05  # the paper reports 1.33
KEY = "RESKILL_OVERHEAD_KEY"


def main() -> None:
    """Train in turn, compare."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--variant", default="cpu", help="of configs/alfworld.py")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--latency", type=float, default=20.0, help="seconds per call")
    flags, further = parser.parse_known_args()
    os.environ[KEY] = "none"  # the server asks for none, the SDK insists
    seconds: dict[str, list[list[float]]] = {"grpo": [], "reskill": []}
    calls: list[float] = []
    with (
        tempfile.TemporaryDirectory() as folder,
        LlmServer(make_script(), flags.latency) as server,
    ):
        for repeat in range(flags.repeats):
            for name, runs in seconds.items():
                workdir = Path(folder, f"{name}-{repeat}")
                size = {"num_steps": flags.steps, "strategy.name": name}
                same = changes(server.url) | parse_changes(further)
                finish(workdir, size | same, f"configs/alfworld.py:{flags.variant}")
                steps = measured(workdir)
                runs.append([step["time/step"] for step in steps[1:]])
                if name == "reskill":
                    calls.append(sum(step.get("creator/calls", 0) for step in steps))
    table(seconds, calls)


def changes(url: str) -> Changes:
    """Return how the runs differ from the configuration."""
    return {
        "creator.name": "openai",
        "creator.llm.name": "scripted",
        "creator.llm.base_url": url,
        "creator.llm.api_key_variable": KEY,
        "strategy.reservoir_min": 2,
        "eval.max_tasks": 1,
        "eval.every": 0,
    }


def parse_changes(arguments: Sequence[str]) -> Changes:
    """Read ``--config.key=value``.

    Raises:
        ValueError: an argument is of another form.
    """
    found: Changes = {}
    for argument in arguments:
        key, equals, value = argument.removeprefix("--config.").partition("=")
        if key == argument.partition("=")[0] or not equals:
            raise ValueError(f"{argument!r} is unknown: use --config.key=value")
        found[key] = value
    return found


def make_script() -> Callable[[str, str], str]:
    """Write a server's script: the rules of the offline creator, one after another."""
    rules = count()

    def answer(stage: str, prompt: str) -> str:
        rule = HELPFUL[next(rules) % len(HELPFUL)] if stage == "drafts" else HELPFUL[0]
        when_to_use, action = rule.wordings[0]
        operation = {"op": "add", "target": rule.name, "intent": rule.description}
        draft = {
            "op": "add",
            "name": rule.name,
            "description": rule.description,
            "when_to_use": when_to_use,
            "action": action,
            "trigger": "general",
        }
        answers = {
            "analysis": {"insight": rule.description, "failure_mode": "any"},
            "diagnosis": {"summary": "Skills are missing."},
            "advice": {"operations": [operation]},
            "drafts": {"operations": [draft]},
        }
        return json.dumps(answers[stage])

    return answer


def measured(workdir: Path) -> list[dict[str, float]]:
    """Return the metrics of a run's training steps, in order."""
    lines = read_metrics(Workdir(workdir).metrics)
    return [
        {key: float(value) for key, value in line.items() if key != "phase"}
        for line in lines
        if line["phase"] == "train"
    ]


def table(seconds: dict[str, list[list[float]]], calls: list[float]) -> None:
    """Print totals per run and the ratio of their medians."""
    totals = {name: [sum(run) for run in runs] for name, runs in seconds.items()}
    rows: list[list[str | float]] = [
        [name, len(runs), statistics.median(runs), min(runs), max(runs)]
        for name, runs in totals.items()
    ]
    print(format_table(["strategy", "runs", "median s", "least", "most"], rows))
    ratio = statistics.median(totals["reskill"]) / statistics.median(totals["grpo"])
    figures = {f"{name} s": statistics.median(runs) for name, runs in totals.items()}
    figures["calls per run"] = statistics.mean(calls)
    bar = Bar(ratio, TARGET, at_most=True)
    report("overhead", figures, {"step time of reskill over grpo": bar})


if __name__ == "__main__":
    main()
