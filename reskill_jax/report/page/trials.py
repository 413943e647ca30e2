"""Trials for the page: posterior, stop bounds, wins and losses by task type."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from reskill_jax.report.page.figures import posterior, short, within_groups
from reskill_jax.report.page.library import changed_triggers
from reskill_jax.report.page.played import Row
from reskill_jax.report.page.reading import Candidate, PathPoint, TrialLine
from reskill_jax.skills.operations import Delete, Operation, describe
from reskill_jax.skills.skill import Skill, Trigger, could_fire


def trials_document(
    trials: Sequence[TrialLine],
    expectations: Mapping[str, Any],
    rows: Sequence[Row],
    metrics: Sequence[Mapping[str, Any]],
    first: Sequence[Skill] | None = None,
    on_trial: Sequence[Candidate] = (),
) -> dict[str, Any]:
    """Return all trials, the running one, and what was expected of them.

    Args:
        trials: decided ones.
        expectations: of `trial.json`; empty where there are none.
        rows: of all episodes.
        metrics: lines of the run.
        first: the skills that it began with; None: not known.
        on_trial: candidates of the running trial, as far as they are recorded.
    """
    settings = expectations.get("settings")
    settings = settings if isinstance(settings, Mapping) else {}
    by_step: dict[int, list[Row]] = defaultdict(list)
    for row in rows:
        if row.phase == "train":
            by_step[row.step].append(row)
    return short(
        {
            "list": [
                _trial(trial, settings, by_step, triggers)
                for trial, triggers in zip(
                    trials, changed_triggers(trials, first), strict=True
                )
            ],
            "running": _running(trials, settings, metrics, on_trial),
            "settings": dict(settings),
            "preset": expectations.get("preset"),
            "shape": expectations.get("shape"),
            "changed": expectations.get("changed"),
            "expected": expectations.get("expected"),
        }
    )


def bounds(
    settings: Mapping[str, Any], steps: int, *, deletes: bool
) -> list[tuple[float, float]] | None:
    """Return the chances at which a trial ends at steps 0 to `steps`: reject, accept.

    The same lines as in `trials.paired.verdict`; None for trials of another kind.
    """
    prefix = "delete_" if deletes else ""
    names = (f"{prefix}early_accept", "early_reject", f"{prefix}accept_probability")
    values: list[Any] = [settings.get(name) for name in (*names, "max_steps")]
    if settings.get("mode") != "paired" or not all(
        isinstance(value, int | float) for value in values
    ):
        return None
    accept, reject, final, most = values
    found = []
    for step in range(steps + 1):
        progress = min(step / most, 1) if most else 1
        low = (1 - progress) * reject + progress * final
        found.append((low, (1 - progress) * accept + progress * final))
    return found


def win_loss(
    rows: Sequence[Row], incumbent: str, candidate: str
) -> list[dict[str, Any]]:
    """Compare two banks within groups: who won each task that both have played.

    Args:
        rows: episodes of a trial's steps.
        incumbent: hash of a bank.
        candidate: hash of the other.

    Returns:
        A document per group with both: ``step``, ``group``, ``kind``, successes and
        episodes of both (``new``, ``old``) and ``outcome``: win, loss or tie of the
        candidate's success rate.
    """
    if incumbent == candidate:
        return []
    groups: dict[tuple[int, Any], list[Row]] = defaultdict(list)
    for row in rows:
        place = row.task if row.group is None else row.group
        groups[row.step, place].append(row)
    found = []
    for (step, group), members in sorted(groups.items(), key=lambda item: str(item[0])):
        counts = {}
        for bank in (candidate, incumbent):
            own = [row.success for row in members if row.bank == bank]
            counts[bank] = [sum(own), len(own)]
        (won, played), (old_won, old_played) = counts.values()
        if not played or not old_played:
            continue
        difference = won * old_played - old_won * played
        outcome = "win" if difference > 0 else "loss" if difference else "tie"
        found.append(
            {
                "step": step,
                "group": group,
                "kind": members[0].kind,
                "new": [won, played],
                "old": [old_won, old_played],
                "outcome": outcome,
            }
        )
    return found


def _trial(
    trial: TrialLine,
    settings: Mapping[str, Any],
    by_step: Mapping[int, list[Row]],
    triggers: Sequence[Trigger] | None,
) -> dict[str, Any]:
    operations = trial.proposal.operations
    contrast = trial.contrast
    steps = trial.steps
    rows = [row for step in sorted(by_step) if step in steps for row in by_step[step]]
    return {
        "step": trial.step,
        "start": trial.start,
        "verdict": trial.verdict,
        "operations": [describe(operation) for operation in operations],
        "bank": trial.proposal.bank,
        "candidate": trial.candidate,
        "contrast": contrast
        and {
            "effect": contrast.effect,
            "error": contrast.standard_error,
            "probability": contrast.probability,
            "exposed": contrast.exposed_effect,
            "exposed_error": contrast.exposed_standard_error,
        },
        "episodes": trial.episodes,
        "rates": trial.rates,
        "stop": trial.stop_reason,
        "path": _path(trial.path, settings),
        "bounds": bounds(settings, len(trial.path), deletes=_only_deletes(operations)),
        "cost": _cost(settings, operations),
        "groups": win_loss(rows, trial.proposal.bank, trial.candidate),
        "unexposed": unexposed(rows, trial.proposal.bank, trial.candidate, triggers),
    }


def unexposed(
    rows: Sequence[Row],
    incumbent: str,
    candidate: str,
    triggers: Sequence[Trigger] | None,
) -> dict[str, Any] | None:
    """Compare two banks in episodes in which no changed skill could have fired.

    Both arms saw the same prompts there, so that only chance can make a difference.

    Args:
        rows: episodes of a trial's steps.
        incumbent: hash of a bank.
        candidate: hash of the other.
        triggers: of the skills that differ; None: not known.

    Returns:
        ``effect`` and ``error``, None where no group has both arms, and ``episodes`` of
        the incumbent and the candidate; None where it is not known.
    """
    if triggers is None:
        return None
    plain = [row for row in rows if not could_fire(triggers, row.actions, row.goal)]
    found = within_groups(
        (*group["new"], *group["old"])
        for group in win_loss(plain, incumbent, candidate)
    )
    effect, error = found or (None, None)
    counts = [sum(row.bank == bank for row in plain) for bank in (incumbent, candidate)]
    return {"effect": effect, "error": error, "episodes": counts}


def _only_deletes(operations: Sequence[Operation]) -> bool:
    return bool(operations) and all(isinstance(o, Delete) for o in operations)


def _cost(settings: Mapping[str, Any], operations: Sequence[Any]) -> float | None:
    """Return the least effect that is worth it, see `TrialConfig.cost`."""
    if settings.get("mode") != "paired":
        return None
    new = sum(not isinstance(operation, Delete) for operation in operations)
    key = "cost_per_skill" if new else "delete_margin"
    value = settings.get(key)
    if not isinstance(value, int | float):
        return None
    return value * new if new else -value


def _path(
    path: Sequence[PathPoint], settings: Mapping[str, Any]
) -> list[dict[str, Any]]:
    prior = settings.get("effect_sd")
    points = []
    for point in path:
        document: dict[str, Any] = {
            "step": point.step,
            "effect": point.effect,
            "error": point.standard_error,
            "probability": point.probability,
        }
        if settings.get("mode") == "paired" and isinstance(prior, int | float):
            mean, sd = posterior(point.effect or 0.0, point.standard_error, prior)
            document |= {"mean": mean, "sd": sd}
        elif point.effect is not None and point.standard_error is not None:
            document |= {"mean": point.effect, "sd": point.standard_error}
        points.append(document)
    return points


def _running(
    trials: Sequence[TrialLine],
    settings: Mapping[str, Any],
    metrics: Sequence[Mapping[str, Any]],
    on_trial: Sequence[Candidate],
) -> dict[str, Any] | None:
    """Return the trial that goes on, as far as the metrics tell; None if none does."""
    path: list[PathPoint] = []
    last: Mapping[str, Any] = {}
    decided = max((trial.step for trial in trials), default=-1)
    for line in metrics:
        if line["phase"] != "train" or line["step"] <= decided:
            continue
        if "trial/probability" in line:
            path.append(
                PathPoint(
                    line["step"],
                    line.get("trial/effect"),
                    line.get("trial/standard_error"),
                    line["trial/probability"],
                )
            )
            last = line
    if not path:
        return None
    arms = sorted(
        (int(key.rpartition("_")[2]), value)
        for key, value in last.items()
        if key.startswith("trial/episodes_") and key.rpartition("_")[2].isdecimal()
    )
    costs = {_cost(settings, held.proposal.operations) for held in on_trial}
    return {
        "path": _path(path, settings),
        "operations": [
            [describe(operation) for operation in held.proposal.operations]
            for held in on_trial
        ],
        "episodes": [value for _, value in arms],
        # Of several candidates the metrics tell of the likeliest, not which one it is.
        "cost": costs.pop() if len(costs) == 1 else None,
        "bounds": bounds(
            settings,
            len(path),
            deletes=bool(on_trial)
            and all(_only_deletes(held.proposal.operations) for held in on_trial),
        ),
    }
