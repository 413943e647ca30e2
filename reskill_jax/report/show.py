"""Describes a run's state: success so far, trials, the current bank, one episode.

The files may be damaged, or those of another program: what cannot be read is named.
Texts of models and environments are made harmless and stay on lines of their own.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from reskill_jax.codec import decode
from reskill_jax.report.best import best_of_run
from reskill_jax.report.decisions import read_trials
from reskill_jax.report.metrics import read_metrics, sampled_names
from reskill_jax.skills.contrast import Contrast
from reskill_jax.skills.episode_record import EpisodeRecord
from reskill_jax.skills.operations import describe
from reskill_jax.skills.skill_md import load_bank
from reskill_jax.storage import read_json_lines
from reskill_jax.terminal import one_line
from reskill_jax.workdir import Workdir


def show(workdir: Workdir) -> str:
    """Describe a run in text, from the files that it has written so far.

    Raises:
        FileNotFoundError: there is no run.
        ValueError: a file of it cannot be read; names it.
    """
    config = workdir.read_config()

    def setting(kind: Any, *path: str) -> Any:
        value: Any = config
        for key in path:
            value = value.get(key) if isinstance(value, Mapping) else None
        try:
            return decode(kind, value, name=f"{workdir.config}: {'.'.join(path)}")
        except ValueError as error:
            raise ValueError(f"{error}: restore it from a copy") from error

    name = setting(str, "strategy", "name")
    total = setting(int, "num_steps")
    splits = setting(list[str], "eval", "splits")
    lines = read_metrics(workdir.metrics)
    train = [line for line in lines if line["phase"] == "train"]
    step = int(train[-1]["step"]) if train else 0
    parts = [f"{workdir.root}: {one_line(name)}, step {step} of {total}"]
    bank = _has_bank(workdir, name, step)
    if splits:
        of = " of the accepted bank" if bank else ""
        parts += ["", f"Greedy success{of}", *_success(lines, splits)]
        parts += _sampled(lines, splits)
        parts += _best(workdir)
    if bank:
        parts += ["", *_trials(workdir)]
        parts += ["", *_bank(workdir)]
    parts += ["", *_episode(workdir, step, bank)]
    return "\n".join(parts)


def _has_bank(workdir: Workdir, strategy: str, step: int) -> bool:
    """Tell whether the method has a bank, which is written with the first step."""
    tried = workdir.trials.exists() and workdir.trials.stat().st_size > 0
    return workdir.skills.is_dir() or tried or (not step and strategy != "grpo")


def _success(lines: list[dict[str, Any]], splits: list[str]) -> Iterator[str]:
    """Tabulate evaluations, with training success over the steps before each.

    The mean reward stands in brackets where it says more than success.
    """
    header = " ".join(f"{one_line(split):>13}" for split in splits)
    adapts = any(_SPENT[0] in line for line in lines)  # without gradients
    spent = f" {'episodes':>9} {'calls':>6}" if adapts else ""
    yield f"{'step':>6} {'training':>9} {header}{spent}"
    played: list[tuple[float, float]] = []
    panels: dict[str, str] = {}
    graded = False
    for line in lines:
        if line["phase"] == "train":
            if rate := _rate(line, "rollout"):  # something was played
                played.append(rate)
        else:
            means = [sum(column) / len(played) for column in zip(*played, strict=True)]
            cells = [f"{_cell(means):>9}" if played else " " * 9]
            found = [_rate(line, split) for split in splits]
            cells += [f"{_cell(rate) if rate else 'void':>13}" for rate in found]
            if adapts:
                counts = [int(line.get(key, 0)) for key in _SPENT]
                cells.append(f"{counts[0]:9d} {counts[1]:6d}")
            yield f"{line['step']:6d} {' '.join(cells)}"
            graded = graded or any("(" in cell for cell in cells)
            played = []
            panels = line.get("panels", {})
    if graded:
        yield "in brackets: mean reward, where it is not the success"
    for split in splits:
        label = one_line(str(panels.get(split, "not recorded")))
        yield f"{one_line(split)}: tasks {label} (count:hash)"


def _sampled(lines: list[dict[str, Any]], splits: list[str]) -> Iterator[str]:
    """Tabulate what samples showed, with 95% intervals over tasks."""
    found = [
        (line, split)
        for line in lines
        for split in splits
        if line["phase"] == "eval" and sampled_names(line, split)
    ]
    if not found:
        return
    line, split = found[-1]
    count, temperature = (line[f"{split}/{x}"] for x in ("samples", "temperature"))
    yield ""
    yield f"Sampled: {count:g} episodes per task at temperature {temperature:g}"
    for line, split in found:
        cells = []
        for name in sampled_names(line, split):
            low, high = (line[f"{split}/{name}_{end}"] for end in ("low", "high"))
            cells.append(
                f"{name} {line[f'{split}/{name}']:6.1%} [{low:.0%}, {high:.0%}]"
            )
        yield f"{line['step']:6d} {one_line(split):>13}  {'  '.join(cells)}"


def _best(workdir: Workdir) -> Iterator[str]:
    """Name the checkpoint that is kept beside the newest."""
    best = best_of_run(workdir)
    if best.metric:
        place = "none yet" if best.step is None else f"step {best.step}"
        value = "" if best.step is None else f" {best.value:.4g}"
        yield ""
        yield one_line(f"Best checkpoint: {place}, by {best.metric}{value}")


_SPENT = ("adapt/episodes", "adapt/calls")


def _rate(line: Mapping[str, Any], split: str) -> tuple[float, float] | None:
    """Return success and mean reward; None: too many tasks failed for good."""
    rate = line.get(f"{split}/success")
    return None if rate is None else (rate, line.get(f"{split}/reward", rate))


def _cell(rate: Sequence[float]) -> str:
    success, reward = rate
    same = math.isclose(success, reward, rel_tol=1e-6, abs_tol=1e-9)
    return f"{success:.1%}" if same else f"{success:.1%} ({reward:.2f})"


def _trials(workdir: Workdir) -> Iterator[str]:
    trials = read_trials(workdir.trials)
    accepted = sum(trial.accepted for trial in trials)
    yield f"Trials decided: {len(trials)}, accepted: {accepted}"
    for trial in trials:
        shown = _contrast(trial.contrast)
        operations = one_line(", ".join(map(describe, trial.proposal.operations)))
        yield f"  step {trial.step:4d}  {trial.verdict}  {shown}  {operations}"


def _contrast(found: Contrast | None) -> str:
    """Show the effect, and that where a changed skill could have fired."""
    if found is None:
        return f"{'untested':37}"
    all_episodes = _estimate(found.effect, found.standard_error)
    exposed = _estimate(found.exposed_effect, found.exposed_standard_error)
    return f"{all_episodes:14} exposed {exposed:14}"


def _estimate(effect: float | None, error: float | None) -> str:
    if effect is None or error is None:
        return "-"
    return f"{effect:+.1%} ±{error:.1%}"


def _bank(workdir: Workdir) -> Iterator[str]:
    skills = load_bank(workdir.skills).skills if workdir.skills.is_dir() else ()
    yield f"Bank: {len(skills)} skills"
    for skill in skills:
        when = skill.trigger.pattern or skill.trigger.kind
        if skill.trigger.goal:
            when += f", goals like {skill.trigger.goal}"
        yield f"  {skill.name} [{one_line(when)}]"
        yield f"    {one_line(f'{skill.when_to_use} {skill.action}')}"


def _episode(workdir: Workdir, step: int, has_bank: bool) -> Iterator[str]:
    """Show the newest step's first successful episode, or its first one."""
    path = workdir.episodes / f"train-{step:05d}.jsonl"
    if not path.exists():
        yield "No episode yet"
        return
    records = [
        decode(EpisodeRecord, line, name=place, fields="any")
        for place, line in read_json_lines(path)
    ]
    if not records:
        yield f"Nothing was played at step {step}"
        return
    record = next((r for r in records if r.success), records[0])
    outcome = "success" if record.success else "failure"
    bank = f", bank {one_line(record.bank)}" if has_bank else ""
    yield f"An episode of step {step}: {one_line(record.goal)} ({outcome}{bank})"
    for turn, action in enumerate(record.actions):
        yield _indented(_at(record.observations, turn, ""))
        skills = one_line(", ".join(_at(record.active_skills, turn, ())))
        shown = f"   [{skills}]" if skills else ""
        mark = "" if _at(record.valid, turn, True) else "   (invalid)"
        yield f"  > {one_line(action)}{shown}{mark}"
    if len(record.observations) > len(record.actions):
        yield _indented(record.observations[-1])


def _at(items: Sequence[Any], place: int, default: Any) -> Any:
    """Return an item; recordings may lack some."""
    return items[place] if place < len(items) else default


def _indented(text: str) -> str:
    return "\n".join(f"  {one_line(line)}" for line in text.splitlines() or [""])
