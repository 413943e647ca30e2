"""All that the page shows, as one JSON document, from the files of a run."""

import json
import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from reskill_jax.report.best import chosen_metric, find_best, saved_steps
from reskill_jax.report.metrics import sampled_names
from reskill_jax.report.page.compare import Summary, comparison_document
from reskill_jax.report.page.creator import creator_document
from reskill_jax.report.page.figures import mean_of_rates, rate, short
from reskill_jax.report.page.library import library_document
from reskill_jax.report.page.played import Played, Row, read_played
from reskill_jax.report.page.reading import Reader
from reskill_jax.report.page.trials import trials_document
from reskill_jax.workdir import Workdir, flatten

# Of a nested configuration.
Complete = Callable[[Mapping[str, Any]], Mapping[str, Any]]
_EVALUATED = ("eval", "sampled")  # phases of episodes
_POINTS = 2_000  # steps of metrics on a page, at most


def run_document(
    workdir: Workdir,
    others: Sequence[Workdir],
    clean: Callable[[Any], Any],
    made: str,
    complete: Complete = dict,
) -> dict[str, Any]:
    """Return the data of a report.

    Args:
        workdir: of the run.
        others: of the runs that it is compared with.
        clean: scrubs a document of secrets.
        made: when, in words.
        complete: gives a run's configuration the keys that came after it began, so that
            these do not tell it from the runs that it is compared with.

    Raises:
        FileNotFoundError: there is no run.
        ValueError: its configuration cannot be read.
    """
    config = workdir.read_config()
    flat = flatten(config)
    reader = Reader(workdir)
    metrics = reader.metrics()
    train = [line for line in metrics if line["phase"] == "train"]
    updated = {line["step"] for line in train if "grpo/loss" in line}
    settings = config.get("grpo")
    played = read_played(
        reader,
        settings if isinstance(settings, Mapping) else {},
        updated.__contains__,
        clean,
    )
    trials, first = reader.trials(), reader.first_bank()
    on_trial = reader.on_trial(trials)
    evals = evaluations(metrics, played.rows, reader.columns())
    document: dict[str, Any] = {
        "run": _state(reader, flat, train, played, made)
        | {"best": _best(flat, metrics, workdir)},
        "config": json.loads(json.dumps(flat), parse_constant=str),  # NaN as a word
        "evals": evals,
        "training": _training(played.rows, train),
        "metrics": _columns(train),
        "trials": trials_document(
            trials, reader.expectations(), played.rows, metrics, first, on_trial
        ),
        "library": library_document(trials, reader.skills(), first, on_trial),
        "creator": creator_document(reader.calls(), train, flat),
        "comparison": _comparison(
            workdir, complete, evals, played.rows, others, reader
        ),
    }
    document["run"]["problems"] = reader.problems
    # Episodes are clean already, one by one.
    return clean(document) | {
        "episodes": played.shown,
        "episodes_note": played.note,
        "advantage_note": played.advantage_note,
    }


def evaluations(
    metrics: Sequence[Mapping[str, Any]],
    rows: Sequence[Row],
    columns: Mapping[str, Mapping[str, Sequence[str]]],
) -> list[dict[str, Any]]:
    """Return every evaluation: by split, success in all, by task type and by column.

    Intervals come from the episodes; where these are missing, from the panel's size.

    Args:
        metrics: lines of the run.
        rows: its episodes.
        columns: by split, the task types of each column, as far as they are recorded.
    """
    by_place: dict[tuple[int, str], list[Row]] = defaultdict(list)
    for row in rows:
        if row.phase == "eval":
            by_place[row.step, row.split].append(row)
    found = []
    for line in metrics:
        if line["phase"] != "eval":
            continue
        panels = line.get("panels")
        panels = panels if isinstance(panels, Mapping) else {}
        ends = ("/success", "/void")
        names = {
            key.removesuffix(end) for key in line for end in ends if key.endswith(end)
        }
        splits = {
            split: _split(
                line, split, panels, by_place[line["step"], split], columns.get(split)
            )
            for split in sorted(names)
            if "/" not in split  # a type of task may be called success
        }
        found.append({"step": line["step"], "panels": dict(panels), "splits": splits})
    return short(found)


def _split(
    line: Mapping[str, Any],
    split: str,
    panels: Mapping[str, Any],
    rows: Sequence[Row],
    of_columns: Mapping[str, Sequence[str]] | None,
) -> dict[str, Any]:
    if f"{split}/void" in line:
        return rate(0, 0) | {"void": True, "kinds": {}, "columns": {}}
    size = str(panels.get(split, "")).partition(":")[0]
    count = len(rows) or (int(size) if re.fullmatch(r"\d{1,9}", size) else 0)
    success = float(line[f"{split}/success"])
    kinds = {
        kind: rate(sum(r.success for r in rows if r.kind == kind), n)
        for kind in sorted({r.kind for r in rows})
        if (n := sum(r.kind == kind for r in rows))
    }
    columns = {}
    for key, value in line.items():
        name = key.removeprefix(f"{split}/success/")
        if name != key and name not in kinds:
            columns[name] = _column(value, kinds, (of_columns or {}).get(name))
    counted = count and 0 <= success <= 1
    whole = rate(round(success * count), count) if counted else rate(0, 0)
    return whole | {
        "rate": success,
        "reward": line.get(f"{split}/reward"),
        "sampled": _sampled(line, split),
        "kinds": kinds,
        "columns": columns,
    }


def _sampled(line: Mapping[str, Any], split: str) -> dict[str, Any] | None:
    """Return what samples showed: figures by name, of all tasks, types and columns."""
    names = sampled_names(line, split)
    if not names:
        return None

    def figures(place: str) -> dict[str, Any]:
        return {
            name: {
                "rate": line[f"{split}/{name}{place}"],
                "low": line.get(f"{split}/{name}_low{place}"),
                "high": line.get(f"{split}/{name}_high{place}"),
            }
            for name in names
            if f"{split}/{name}{place}" in line
        }

    start = f"{split}/{names[0]}/"
    places = sorted(key.removeprefix(start) for key in line if key.startswith(start))
    return {
        "samples": line.get(f"{split}/samples"),
        "temperature": line.get(f"{split}/temperature"),
        "all": figures(""),
        "places": {place: figures(f"/{place}") for place in places},
    }


def _column(
    value: float,
    kinds: Mapping[str, Mapping[str, Any]],
    members: Sequence[str] | None,
) -> dict[str, Any]:
    """Return a mean of several kinds' rates, with an interval where it can be known.

    Files of older runs do not tell which kinds belong to a column (None): then its
    interval is known only where it is the mean of all kinds.
    """
    names = list(kinds) if members is None else members
    rates = [dict(kinds[name]) for name in names if name in kinds]
    found = rates[0] if len(rates) == 1 else mean_of_rates(rates)  # one: Wilson's
    whole = all(name in kinds for name in names)
    if whole and found["rate"] is not None and abs(found["rate"] - value) < 1e-9:
        return found | {"rate": value} | ({"kinds": list(members)} if members else {})
    return {"rate": value, "n": None, "low": None, "high": None}


def _training(
    rows: Sequence[Row], train: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Return training success per step; from the metrics where episodes are missing."""
    won: dict[int, list[bool]] = defaultdict(list)
    for row in rows:
        if row.phase == "train":
            won[row.step].append(row.success)
    points = []
    for line in train:
        found = won.get(line["step"])
        if found:
            points.append({"step": line["step"], **rate(sum(found), len(found))})
        elif "rollout/success" in line:
            value = line["rollout/success"]
            points.append({"step": line["step"], "rate": value, "n": None})
    return short(points)


def _columns(train: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return training metrics by name, of every step or, of very many, of some."""
    stride = -(-len(train) // _POINTS) or 1
    kept = train[::stride]
    names = sorted({k for line in kept for k in line} - {"phase", "step", "panels"})
    return {
        "stride": stride,
        "steps": [line["step"] for line in kept],
        "names": {name: short([line.get(name) for line in kept]) for name in names},
    }


def _state(
    reader: Reader,
    config: Mapping[str, Any],
    train: Sequence[Mapping[str, Any]],
    played: Played,
    made: str,
) -> dict[str, Any]:
    """Return what a run is, how far it is, and what it has cost so far."""
    total = config.get("num_steps")
    step = train[-1]["step"] if train else 0
    running = reader.is_running()
    done = isinstance(total, int) and step >= total
    state = "running" if running else "finished" if done else "stopped"
    bank = bool(reader.skills()) or any("skills/bank_size" in line for line in train)

    def sum_of(name: str) -> float | None:
        values = [line[name] for line in train if name in line]
        return sum(values) if values else None

    return short(
        {
            "name": reader.workdir.root.resolve().name,
            "made": made,
            "state": state,
            "crash": "" if running or done else reader.crash(),
            "step": step,
            "total": total,
            "strategy": config.get("strategy.name"),
            "environment": config.get("env.name"),
            "policy": config.get("policy.path") or "the laboratory's policy",
            "seed": config.get("seed"),
            "has_bank": bank,
            "episodes": len(played.rows),
            "seconds": sum_of("time/step"),
            "tokens": sum_of("batch/tokens"),
        }
    )


def _best(
    config: Mapping[str, Any], metrics: Sequence[Mapping[str, Any]], workdir: Workdir
) -> dict[str, Any] | None:
    """Return the checkpoint that is kept beside the newest; None if there is none."""
    splits = config.get("eval.splits")
    metric = chosen_metric(
        str(config.get("checkpoint.best", "")),
        splits if isinstance(splits, list) else (),
    )
    best = find_best(metrics, metric, saved_steps(workdir.checkpoints))
    return None if best.step is None else short(asdict(best))


def _comparison(
    workdir: Workdir,
    complete: Complete,
    evals: Sequence[Mapping[str, Any]],
    rows: Sequence[Row],
    others: Sequence[Workdir],
    reader: Reader,
) -> dict[str, Any] | None:
    if not others:
        return None
    config = flatten(complete(workdir.read_config()))
    evaluated = [row for row in rows if row.phase in _EVALUATED]
    runs = [Summary(workdir.root.resolve().name, config, evals, evaluated)]
    for other in others:
        own = Reader(other, reader.problems)
        found = [
            Row(phase, step, e.split, e.task, e.kind, e.group, e.bank, e.success)
            for phase, step, path in own.episode_files()
            if phase in _EVALUATED
            for e in own.episodes(path)
        ]
        flat = flatten(complete(other.read_config()))
        lines = evaluations(own.metrics(), found, own.columns())
        runs.append(Summary(other.root.resolve().name, flat, lines, found))
    return comparison_document(runs)
