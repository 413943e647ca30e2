"""Several runs beside each other: means over seeds, differences on the same tasks."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from reskill_jax.report.page.figures import mean_interval, short
from reskill_jax.report.page.played import Row
from reskill_jax.workdir import PLACES

_NOT_A_METHOD = ("seed", "num_steps", "eval.every", *PLACES)


@dataclass(frozen=True)
class Summary:
    """What a comparison needs of a run.

    Attributes:
        name: its directory.
        config: flat.
        evals: evaluations as in the page's data.
        rows: episodes of evaluations.
    """

    name: str
    config: Mapping[str, Any]
    evals: Sequence[Mapping[str, Any]]
    rows: Sequence[Row]


def comparison_document(runs: Sequence[Summary]) -> dict[str, Any]:
    """Compare runs; those that differ in nothing but the seed are one group.

    Every figure is of the last step at which all runs were evaluated, of splits whose
    panels (hash of the tasks) are the same in all of them.
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
            "splits": splits,
            "unlike": unlike,
            "means": [
                {"group": name, "split": split, **_mean(own, split, step)}
                for split in splits
                for name, own in groups.items()
            ],
            "differences": [
                {"split": split, **_difference(first, other, split, step)}
                for split in splits
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


def _mean(runs: Sequence[Summary], split: str, step: int | None) -> dict[str, Any]:
    rates = []
    for run in runs:
        evaluation = next(e for e in run.evals if e["step"] == step)
        value = evaluation["splits"].get(split, {}).get("rate")
        if value is not None:
            rates.append(value)
    return mean_interval(rates) | {"runs": rates}


def _pairs(items: list[Any]) -> list[tuple[Any, Any]]:
    """Return the first group with each other one."""
    return [(items[0], other) for other in items[1:]]


def _difference(
    first: tuple[str, Sequence[Summary]],
    other: tuple[str, Sequence[Summary]],
    split: str,
    step: int | None,
) -> dict[str, Any]:
    """Return other minus first, task by task, and between the seeds' means.

    ``tasks`` has an interval over tasks with the seeds as they are, ``seeds`` one over
    runs, paired by seed, where both have the same seeds.
    """
    a, b = (_by_task(runs, split, step) for runs in (first[1], other[1]))
    tasks = [b[task] - a[task] for task in sorted(a.keys() & b.keys())]
    rates = [
        {run.config.get("seed"): _mean([run], split, step)["mean"] for run in runs}
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


def _by_task(runs: Sequence[Summary], split: str, step: int | None) -> dict[str, float]:
    """Return each task's success, averaged over runs."""
    found: dict[str, list[bool]] = defaultdict(list)
    for run in runs:
        for row in run.rows:
            if row.step == step and row.split == split:
                found[row.task].append(row.success)
    return {task: sum(won) / len(won) for task, won in found.items()}
