"""Prints a run's state: success so far, trials, the current bank, one episode."""

import json
from collections.abc import Iterator
from typing import Any

from reskill_jax.codec import decode
from reskill_jax.creator.proposal import PastTrial
from reskill_jax.report.metrics import read_metrics
from reskill_jax.skills.contrast import Contrast
from reskill_jax.skills.episode_record import EpisodeRecord
from reskill_jax.skills.operations import describe
from reskill_jax.skills.skill_md import load_bank
from reskill_jax.workdir import Workdir


def show(workdir: Workdir) -> str:
    """Describe a run in text, from the files that it has written so far."""
    config = workdir.read_config()
    lines = read_metrics(workdir.metrics)
    train = [line for line in lines if line["phase"] == "train"]
    step = int(train[-1]["step"]) if train else 0
    name = config["strategy"]["name"]
    parts = [f"{workdir.root}: {name}, step {step} of {config['num_steps']}"]
    parts += ["", *_success(lines, config["eval"]["splits"])]
    parts += ["", *_trials(workdir)]
    parts += ["", *_bank(workdir)]
    parts += ["", *_episode(workdir, step)]
    return "\n".join(parts)


def _success(lines: list[dict[str, Any]], splits: list[str]) -> Iterator[str]:
    """Tabulate evaluations, with training success over the steps before each."""
    yield "Greedy success of the accepted bank"
    yield f"{'step':>6} {'training':>9} " + " ".join(f"{s:>13}" for s in splits)
    rewards: list[float] = []
    for line in lines:
        if line["phase"] == "train":
            if "rollout/success" in line:  # something was played
                rewards.append(line["rollout/success"])
        else:
            training = f"{sum(rewards) / len(rewards):9.1%}" if rewards else " " * 9
            rates = " ".join(f"{line[f'{split}/success']:13.1%}" for split in splits)
            yield f"{line['step']:6d} {training} {rates}"
            rewards = []


def _trials(workdir: Workdir) -> Iterator[str]:
    path = workdir.root / "trials.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    trials = [decode(PastTrial, json.loads(line), fields="any") for line in lines]
    accepted = sum(trial.accepted for trial in trials)
    yield f"Trials decided: {len(trials)}, accepted: {accepted}"
    for trial in trials:
        shown = _contrast(trial.contrast)
        operations = ", ".join(map(describe, trial.proposal.operations))
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
        yield f"  {skill.name} [{when}]"
        yield f"    {skill.when_to_use} {skill.action}"


def _episode(workdir: Workdir, step: int) -> Iterator[str]:
    """Show the newest step's first successful episode, or its first one."""
    path = workdir.episodes / f"train-{step:05d}.jsonl"
    if not path.exists():
        yield "No episode yet"
        return
    records = [
        decode(EpisodeRecord, json.loads(x), fields="any")
        for x in path.read_text().splitlines()
    ]
    if not records:
        yield f"Nothing was played at step {step}"
        return
    record = next((r for r in records if r.success), records[0])
    outcome = "success" if record.success else "failure"
    yield f"An episode of step {step}: {record.goal} ({outcome}, bank {record.bank})"
    for turn, action in enumerate(record.actions):
        yield f"  {record.observations[turn]}"
        active_skills = (
            f"   [{', '.join(record.active_skills[turn])}]"
            if record.active_skills[turn]
            else ""
        )
        mark = "" if record.valid[turn] else "   (invalid)"
        yield f"  > {action}{active_skills}{mark}"
    yield f"  {record.observations[-1]}"
