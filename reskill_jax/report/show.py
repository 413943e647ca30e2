"""Describes a run's state: success so far, trials, the current bank, one episode.

The files may be damaged, or those of another program: what cannot be read is named.
Texts of models and environments are made harmless and stay on lines of their own.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from reskill_jax.codec import decode
from reskill_jax.creator.proposal import PastTrial
from reskill_jax.report.metrics import read_metrics
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
    if splits:
        parts += ["", *_success(lines, splits)]
    parts += ["", *_trials(workdir)]
    parts += ["", *_bank(workdir)]
    parts += ["", *_episode(workdir, step)]
    return "\n".join(parts)


def _success(lines: list[dict[str, Any]], splits: list[str]) -> Iterator[str]:
    """Tabulate evaluations, with training success over the steps before each."""
    yield "Greedy success of the accepted bank"
    header = " ".join(f"{one_line(split):>13}" for split in splits)
    yield f"{'step':>6} {'training':>9} {header}"
    rewards: list[float] = []
    panels: dict[str, str] = {}
    for line in lines:
        if line["phase"] == "train":
            if "rollout/success" in line:  # something was played
                rewards.append(line["rollout/success"])
        else:
            training = f"{sum(rewards) / len(rewards):9.1%}" if rewards else " " * 9
            rates = " ".join(_rate(line, split) for split in splits)
            yield f"{line['step']:6d} {training} {rates}"
            rewards = []
            panels = line.get("panels", {})
    for split in splits:
        label = one_line(str(panels.get(split, "not recorded")))
        yield f"{one_line(split)}: tasks {label} (count:hash)"


def _rate(line: Mapping[str, Any], split: str) -> str:
    """Show an evaluation's success; too many tasks may have failed for good."""
    rate = line.get(f"{split}/success")
    return f"{'void':>13}" if rate is None else f"{rate:13.1%}"


def _trials(workdir: Workdir) -> Iterator[str]:
    trials = []
    if workdir.trials.exists():
        for place, line in read_json_lines(workdir.trials, growing=True):
            trials.append(decode(PastTrial, line, name=place, fields="any"))
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
        yield f"  {skill.name} [{one_line(when)}]"
        yield f"    {one_line(f'{skill.when_to_use} {skill.action}')}"


def _episode(workdir: Workdir, step: int) -> Iterator[str]:
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
    goal, bank = one_line(record.goal), one_line(record.bank)
    yield f"An episode of step {step}: {goal} ({outcome}, bank {bank})"
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
