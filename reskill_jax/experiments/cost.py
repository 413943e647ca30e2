r"""What a method costs beside GRPO: the four ratios that the paper shows.

    python -m reskill_jax.experiments.cost --workdir=runs/cost --steps=16

makes two runs of the laboratory with the same tasks: GRPO, and a method that begins
with a bank of helpful skills and whose creator asks a server that takes 20 s per call.
Of both it takes the tokens of prompts and responses per turn, and the time, in training
and in the evaluation at the end. The first step, which compiles, does not count. Times
depend on what else the machine does, tokens do not: a few steps are enough for them.
Interrupted, the same command goes on.
"""

import os
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from absl import flags

from reskill_jax.benchmarks.llm_server import LlmServer
from reskill_jax.benchmarks.overhead import KEY, changes, make_script
from reskill_jax.benchmarks.reporting import Bar, format_table, report
from reskill_jax.benchmarks.runs import Changes, finish, start
from reskill_jax.environments.alfworld.rules import HELPFUL
from reskill_jax.report.metrics import read_metrics
from reskill_jax.skills.skill import SkillBank
from reskill_jax.skills.skill_md import save_bank
from reskill_jax.workdir import Workdir

# ReSkill over GRPO in the paper, read off its figure.
PUBLISHED = {
    "training context": 1.11,
    "training step time": 1.33,
    "inference context": 1.17,
    "inference time per turn": 1.47,
}
# What is promised here; other ratios are only reported.
TARGETS = {"training context": 1.11, "training step time": 1.05}
_SPLIT, _TASKS = "valid_unseen", 48


def costs(run: Workdir) -> dict[str, float]:
    """Return the costs of a finished run, by the names of `PUBLISHED`.

    Contexts are tokens per turn, times seconds.

    Raises:
        ValueError: the run has too few steps, or no evaluation.
    """
    lines = read_metrics(run.metrics)
    steps = [x for x in lines if x["phase"] == "train" and "time/update" in x][1:]
    ends = [x for x in lines if x["phase"] == "eval" and f"{_SPLIT}/turns" in x]
    if not steps or not ends:
        raise ValueError(f"{run.metrics} has no second step, or no evaluation")
    end = ends[-1]
    turns = float(end[f"{_SPLIT}/turns"]) * _TASKS
    return {
        "training context": statistics.mean(_context(x, "rollout") for x in steps),
        "training step time": statistics.median(float(x["time/step"]) for x in steps),
        "inference context": _context(end, _SPLIT),
        "inference time per turn": float(end[f"time/{_SPLIT}"]) / turns,
    }


def _context(line: Mapping[str, float | str], prefix: str) -> float:
    parts = ("prompt_tokens", "response_length/mean")
    return sum(float(line[f"{prefix}/{part}"]) for part in parts)


def server_port(runs: Sequence[Path]) -> int:
    """Return the port of the server that runs were begun with; 0 if none was.

    Its address is part of their configuration: with another they could not go on.
    """
    for run in map(Workdir, runs):
        if run.config.exists():
            url = run.read_config()["creator"]["llm"]["base_url"]
            return urlsplit(url).port or 0
    return 0


def main() -> None:
    """Train what is missing, then print the ratios."""
    root = Path(_WORKDIR.value)
    skills = SkillBank(tuple(rule.skill() for rule in HELPFUL[: _SKILLS.value]))
    bank = root / f"bank-{skills.hash}"
    if not bank.exists():
        save_bank(skills, bank)
    os.environ[KEY] = "none"  # the server asks for none, the SDK insists
    found: dict[str, dict[str, float]] = {}
    port = server_port([root / name for name in ("grpo", _STRATEGY.value)])
    with LlmServer(make_script(), _LATENCY.value, port=port) as server:
        for name in ("grpo", _STRATEGY.value):
            size: Changes = {
                "num_steps": _STEPS.value,
                "strategy.name": name,
                "eval.max_tasks": _TASKS,
                "eval.splits": (_SPLIT,),
            }
            shown: Changes = {} if name == "grpo" else {"strategy.bank": str(bank)}
            finish(root / name, changes(server.url) | size | shown)
            found[name] = costs(Workdir(root / name))
    ratios = {
        key: found[_STRATEGY.value][key] / found["grpo"][key] for key in PUBLISHED
    }
    rows: list[tuple[str | float, ...]] = [
        (key, *(of_run[key] for of_run in found.values()), ratios[key], PUBLISHED[key])
        for key in PUBLISHED
    ]
    print(format_table(["cost", *found, "ratio", "paper"], rows))
    bars = {key: Bar(ratios[key], most, at_most=True) for key, most in TARGETS.items()}
    report("cost", ratios, bars)


if __name__ == "__main__":
    _WORKDIR = flags.DEFINE_string("workdir", "runs/cost", "Directory of both runs.")
    _STEPS = flags.DEFINE_integer("steps", 16, "Of each run.", lower_bound=2)
    _STRATEGY = flags.DEFINE_string("strategy", "reskill", "What is compared to grpo.")
    _SKILLS = flags.DEFINE_integer(
        "skills", 4, "In the bank that it begins with.", lower_bound=0
    )
    _LATENCY = flags.DEFINE_float("latency", 20.0, "Seconds per call of the creator.")
    start(main)
