"""Trials in the files of the public skill creator: benchmark.json and history.json.

Its schemas compare two configurations by their runs. What they have no place for, the
effect within groups and its error, which decided the trial, stands in the notes.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean, pstdev
from typing import Any

from reskill_jax.report.exports.cards import changed
from reskill_jax.report.page.reading import TrialLine
from reskill_jax.skills.contrast import Contrast

Line = Mapping[str, Any]


def benchmark(
    trial: TrialLine, lines: Iterable[Line], *, model: str, created: str
) -> dict[str, Any]:
    """Write the episodes of a trial.

    Args:
        trial: a decided one.
        lines: training episodes; those of other steps and banks are left out.
        model: the policy that played, in a few words.
        created: time of the export, ISO 8601.

    Returns:
        benchmark.json: an eval is a task at a training step, the first configuration
        is the candidate, the second the incumbent.
    """
    names = {trial.candidate: "new_skill", trial.proposal.bank: "old_skill"}
    played = [
        line
        for line in lines
        if line["step"] in trial.steps and line["bank"] in names and not line["lost"]
    ]
    evals = {
        key: number
        for number, key in enumerate(sorted({(x["step"], x["task"]) for x in played}))
    }
    counts: Counter[tuple[int, str]] = Counter()
    runs = []
    for line in played:
        number, name = evals[line["step"], line["task"]], names[line["bank"]]
        counts[number, name] += 1
        runs.append(_run(line, number, name, counts[number, name]))
    runs.sort(key=lambda run: (run["configuration"], run["eval_id"], run["run_number"]))
    most = max(counts.values(), default=0)
    return {
        "metadata": {
            "skill_name": ", ".join(changed(trial)) or "no skill",
            "skill_path": "",
            "executor_model": model,
            "analyzer_model": "",
            "timestamp": created,
            "evals_run": list(evals.values()),
            "runs_per_configuration": most,
        },
        "runs": runs,
        "run_summary": _summary(runs),
        "notes": _notes(trial),
    }


def history(trials: Sequence[TrialLine], *, started: str) -> dict[str, Any]:
    """Write the lineage of a library: every bank that was on trial, and its parent.

    Args:
        trials: all that were decided, oldest first.
        started: time at which the run began, ISO 8601.

    Returns:
        history.json. A version is the content hash of a bank.
    """
    current = trials[0].proposal.bank if trials else ""
    iterations: list[dict[str, Any]] = []
    if current:
        rate = (trials[0].rates or [None])[0]
        iterations.append(_iteration(current, None, rate, "baseline"))
    for trial in trials:
        result = "won" if trial.accepted else "lost"
        if trial.not_chosen:
            result = "tie"
        parent, version = trial.proposal.bank, trial.candidate
        rate = trial.rates[-1] if trial.rates else None
        iterations.append(_iteration(version, parent, rate, result))
        current = version if trial.accepted else current
    # A bank may come back: its newest line is the one in use.
    for iteration in reversed(iterations):
        if iteration["version"] == current and iteration["grading_result"] != "lost":
            iteration["is_current_best"] = True
            break
    return {
        "started_at": started,
        "skill_name": "library",
        "current_best": current,
        "iterations": iterations,
    }


def _run(line: Line, number: int, name: str, run: int) -> dict[str, Any]:
    won = bool(line["success"])
    return {
        "eval_id": number,
        "eval_name": f"{line['task']} at step {line['step']}",
        "configuration": name,
        "run_number": run,
        "result": {
            "pass_rate": float(won),
            "passed": int(won),
            "failed": int(not won),
            "total": 1,
            "time_seconds": 0.0,
            "tokens": sum(line["response_tokens"]),
            "tool_calls": len(line["actions"]),
            "errors": sum(not valid for valid in line["valid"]),
        },
        "expectations": [
            {
                "text": f"The goal is reached: {line['goal'] or line['task']}",
                "passed": won,
                "evidence": f"reward {line['reward']:g}",
            }
        ],
        "notes": [],
    }


def _summary(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Summarise each configuration; the first one is what a viewer calls A."""
    summary: dict[str, Any] = {}
    for name in ("new_skill", "old_skill"):
        results = [run["result"] for run in runs if run["configuration"] == name]
        summary[name] = {
            key: _spread([float(result[key]) for result in results])
            for key in ("pass_rate", "time_seconds", "tokens")
        }
    new, old = summary["new_skill"], summary["old_skill"]
    formats = {"pass_rate": "+.2f", "time_seconds": "+.1f", "tokens": "+.0f"}
    summary["delta"] = {
        key: format(new[key]["mean"] - old[key]["mean"], wanted)
        for key, wanted in formats.items()
    }
    return summary


def _spread(values: Sequence[float]) -> dict[str, float]:
    if not values:
        return {"mean": 0.0, "stddev": 0.0, "min": 0.0, "max": 0.0}
    return {
        "mean": fmean(values),
        "stddev": pstdev(values),
        "min": min(values),
        "max": max(values),
    }


def _notes(trial: TrialLine) -> list[str]:
    ended = trial.verdict
    if trial.not_chosen:
        ended += ": another candidate of the same trial was better"
    notes = [
        f"The trial of training steps {trial.steps.start} to {trial.step} ended: "
        f"{ended} ({trial.stop_reason or 'no reason given'}).",
        "pass_rate and its stddev are over runs; the trial compares within groups of "
        "the same task. Times are not recorded.",
    ]
    if trial.contrast:
        notes.append(_effect(trial.contrast))
    return notes


def _effect(found: Contrast) -> str:
    """Say what a trial measured, as far as it could."""
    text = (
        f"Effect within groups {found.effect:+.3f}{_error(found.standard_error)}, "
        f"probability that it is worth its cost {found.probability:.3f}"
    )
    if found.exposed_effect is None:
        return f"{text}; no changed skill could be shown."
    error = _error(found.exposed_standard_error)
    return (
        f"{text}; on tasks where a changed skill could be shown "
        f"{found.exposed_effect:+.3f}{error}."
    )


def _error(error: float | None) -> str:
    return "" if error is None else f", standard error {error:.3f}"


def _iteration(
    version: str, parent: str | None, rate: float | None, result: str
) -> dict[str, Any]:
    return {
        "version": version,
        "parent": parent,
        "expectation_pass_rate": rate,
        "grading_result": result,
        "is_current_best": False,
    }
