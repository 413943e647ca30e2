"""Several runs beside each other: means over seeds, differences on the same tasks."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from reskill_jax.report.page.figures import mean_interval, short
from reskill_jax.report.page.played import Row
from reskill_jax.rollout.metrics import pass_at_k
from reskill_jax.workdir import PLACES

GREEDY = "greedy success"  # beside the names of sampled figures
_NOT_A_METHOD = ("seed", "num_steps", "eval.every", *PLACES)


@dataclass(frozen=True)
class Summary:
    """What a comparison needs of a run.

    Attributes:
        name: its directory.
        config: flat.
        evals: evaluations as in the page's data.
        rows: episodes of evaluations, greedy and sampled ones.
    """

    name: str
    config: Mapping[str, Any]
    evals: Sequence[Mapping[str, Any]]
    rows: Sequence[Row]


def comparison_document(runs: Sequence[Summary]) -> dict[str, Any]:
    """Compare runs; those that differ in nothing but the seed are one group.

    Every figure is of the last step at which all runs were evaluated, of splits whose
    panels (hash of the tasks) are the same in all of them. Sampled figures are compared
    where all runs have as many samples per task at the same temperature.
    """
    groups = _groups(runs)
    common = set.intersection(*({e["step"] for e in run.evals} for run in runs))
    step = max(common, default=None)
    splits, unlike = _splits(runs, step)
    return short(
        {
            "runs": [
                {
                    "name": run.name,
                    "group": next(n for n, own in groups.items() if run in own),
                    "seed": run.config.get("seed"),
                    "curve": {
                        split: [
                            [e["step"], e["splits"][split]["rate"]]
                            for e in run.evals
                            if split in e["splits"]
                            and e["splits"][split]["rate"] is not None
                        ]
                        for split in splits
                    },
                }
                for run in runs
            ],
            "groups": list(groups),
            "step": step,
            "behind": _behind(runs, step),
            "splits": splits,
            "unlike": unlike,
            "means": [
                {
                    "group": name,
                    "split": split,
                    "figure": figure,
                    **_mean(own, split, step, figure),
                }
                for split in splits
                for figure in (GREEDY, *_sampled(runs, split, step))
                for name, own in groups.items()
            ],
            "differences": [
                {
                    "split": split,
                    "figure": figure,
                    **_difference(first, other, split, step, figure),
                }
                for split in splits
                for figure in (GREEDY, *_sampled(runs, split, step))
                for first, other in _pairs(list(groups.items()))
            ],
        }
    )


def _groups(runs: Sequence[Summary]) -> dict[str, list[Summary]]:
    """Sort runs into methods, named by the keys in which these differ."""

    def method(run: Summary) -> dict[str, Any]:
        return {
            key: value
            for key, value in run.config.items()
            if not key.startswith(_NOT_A_METHOD)
        }

    methods = [method(run) for run in runs]
    keys = sorted({key for m in methods for key in m})
    telling = [k for k in keys if len({repr(m.get(k)) for m in methods}) > 1]
    if "strategy.name" in telling:  # what follows from it says no more
        own = [k for k in telling if not k.startswith(("trial.", "strategy."))]
        telling = ["strategy.name", *own]
    groups: dict[str, list[Summary]] = {}
    known: dict[str, str] = {}  # name by method
    for run, found in zip(runs, methods, strict=True):
        words = [f"{key}={found.get(key)}" for key in telling]
        name = ", ".join(words[:3]) or "all runs"
        if words[3:]:
            name += f" and {len(words) - 3} more"
        whole = repr(sorted(found.items()))
        if whole not in known:
            known[whole] = f"{name} ({run.name})" if name in groups else name
        groups.setdefault(known[whole], []).append(run)
    return groups


def _behind(runs: Sequence[Summary], step: int | None) -> list[str]:
    """Say which runs keep the others at an earlier step: one was killed, perhaps."""
    if step is None:
        return []
    own = [max(e["step"] for e in run.evals) for run in runs]
    newest = max(own)
    return [
        f"{run.name} was evaluated at step {last} last, others at step {newest}: the "
        f"figures of all runs are of step {step}"
        for run, last in zip(runs, own, strict=True)
        if last < newest
    ]


def _splits(runs: Sequence[Summary], step: int | None) -> tuple[list[str], list[str]]:
    """Return splits with one panel in all runs, and why others are not compared."""
    if step is None:
        return [], ["there is no step at which all of these runs were evaluated"]
    panels: dict[str, set[str | None]] = defaultdict(set)
    for run in runs:
        evaluation = next(e for e in run.evals if e["step"] == step)
        for split in {s for r in runs for e in r.evals for s in e["splits"]}:
            panels[split].add(evaluation["panels"].get(split))
    same = [s for s, found in panels.items() if len(found) == 1 and None not in found]
    unlike = [
        f"{split}: the runs were evaluated on different tasks"
        for split in panels
        if split not in same
    ]
    return sorted(same), sorted(unlike)


def _sampled(runs: Sequence[Summary], split: str, step: int | None) -> list[str]:
    """Return the names of sampled figures that all runs have, of the same sampling."""
    all_found = [_at(run, split, step).get("sampled") for run in runs]
    found = [sampled for sampled in all_found if sampled is not None]
    if len(found) < len(runs):
        return []
    ways = {(sampled["samples"], sampled["temperature"]) for sampled in found}
    return list(found[0]["all"]) if len(ways) == 1 else []


def _at(run: Summary, split: str, step: int | None) -> Mapping[str, Any]:
    """Return a split's figures at a step; empty where it was not evaluated."""
    evaluation = next(e for e in run.evals if e["step"] == step)
    found: Mapping[str, Any] = evaluation["splits"].get(split, {})
    return found


def _mean(
    runs: Sequence[Summary], split: str, step: int | None, figure: str
) -> dict[str, Any]:
    rates = []
    for run in runs:
        found = _at(run, split, step)
        if figure != GREEDY:
            found = found["sampled"]["all"][figure]
        if found.get("rate") is not None:
            rates.append(found["rate"])
    return mean_interval(rates) | {"runs": rates}


def _pairs(items: list[Any]) -> list[tuple[Any, Any]]:
    """Return the first group with each other one."""
    return [(items[0], other) for other in items[1:]]


def _difference(
    first: tuple[str, Sequence[Summary]],
    other: tuple[str, Sequence[Summary]],
    split: str,
    step: int | None,
    figure: str,
) -> dict[str, Any]:
    """Return other minus first, task by task, and between the seeds' means.

    ``tasks`` has an interval over tasks with the seeds as they are, ``seeds`` one over
    runs, paired by seed, where both have the same seeds.
    """
    a, b = (_by_task(runs, split, step, figure) for runs in (first[1], other[1]))
    tasks = [b[task] - a[task] for task in sorted(a.keys() & b.keys())]
    rates = [
        {
            run.config.get("seed"): _mean([run], split, step, figure)["mean"]
            for run in runs
        }
        for runs in (first[1], other[1])
    ]
    seeds = [
        rates[1][seed] - rates[0][seed]
        for seed in rates[0]
        if rates[1].get(seed) is not None and rates[0][seed] is not None
    ]
    return {
        "first": first[0],
        "other": other[0],
        "tasks": mean_interval(tasks),
        "wins": [
            sum(d > 0 for d in tasks),
            sum(d == 0 for d in tasks),
            sum(d < 0 for d in tasks),
        ],
        "seeds": mean_interval(seeds),
    }


def _by_task(
    runs: Sequence[Summary], split: str, step: int | None, figure: str
) -> dict[str, float]:
    """Return a figure of each task, averaged over runs."""
    found: dict[str, list[float]] = defaultdict(list)
    for run in runs:
        won: dict[str, list[bool]] = defaultdict(list)
        for row in run.rows:
            if (row.phase, row.step, row.split) == (_phase(figure), step, split):
                won[row.task].append(row.success)
        for task, outcomes in won.items():
            if len(outcomes) >= _needed(figure):  # else the file is damaged
                found[task].append(_share(outcomes, figure))
    return {task: sum(shares) / len(shares) for task, shares in found.items()}


def _phase(figure: str) -> str:
    return "eval" if figure == GREEDY else "sampled"


def _needed(figure: str) -> int:
    """Return how many episodes of a task a figure is of, at least."""
    return 1 if figure == GREEDY else int(figure.partition("@")[2])


def _share(outcomes: Sequence[bool], figure: str) -> float:
    """Return success of episodes of a task: their mean, or the chance of one of k."""
    count, won = len(outcomes), sum(outcomes)
    passes = figure.startswith("pass@")
    return pass_at_k(count, won, _needed(figure)) if passes else won / count
