"""Cards: what people should know of a skill, or of a model, before they use it."""

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from reskill_jax.report.metrics import sampled_names
from reskill_jax.report.page.reading import TrialLine
from reskill_jax.skills.operations import describe
from reskill_jax.skills.skill import Skill


def skill_card(skill: Skill, trials: Sequence[TrialLine], *, measured_with: str) -> str:
    """Write a skill's card, in Markdown.

    Args:
        skill: of the accepted library.
        trials: all that were decided, oldest first.
        measured_with: the policy and environment that the evidence is of.
    """
    trigger = skill.trigger
    shown = {
        "general": "in every turn",
        "beginning": "in the first turn of an episode",
        "action_pattern": f"after an action that matches `{trigger.pattern}`",
    }[trigger.kind]
    lines = [
        f"# {skill.name}",
        "",
        skill.description,
        "",
        f"- When: {skill.when_to_use}",
        f"- What: {skill.action}",
        f"- Shown to the agent: {shown}",
        f"- Version: {skill.version}",
        "",
        "## Evidence",
        "",
        f"Measured with {measured_with} only. An effect is a difference of success "
        "rates within groups of the same task and policy, with its standard error; "
        "that of a bundle is of all its changes together.",
        "",
    ]
    rows = [_trial_row(trial) for trial in trials if skill.name in changed(trial)]
    if rows:
        lines += [
            "| step | change | effect | chance to be worth its cost | verdict |",
            "|---|---|---|---|---|",
            *rows,
        ]
    else:
        lines.append("No trial of this run changed it: it was there from the start.")
    return "\n".join(lines) + "\n"


def changed(trial: TrialLine) -> list[str]:
    """Return the names of the skills that a bundle adds, modifies or deletes."""
    return list(dict.fromkeys(o.name for o in trial.proposal.operations))


def _trial_row(trial: TrialLine) -> str:
    bundle = ", ".join(map(describe, trial.proposal.operations))
    contrast = trial.contrast
    effect = chance = "not measured"
    if contrast:
        error = contrast.standard_error
        within = "" if error is None else f" ± {error:.1%}"
        effect, chance = (
            f"{contrast.effect:+.1%}{within}",
            f"{contrast.probability:.0%}",
        )
    cells = (str(trial.step), bundle, effect, chance, trial.verdict)
    return f"| {' | '.join(cells)} |"


def model_card(
    *,
    base: str,
    environment: str,
    strategy: str,
    step: int,
    evaluation: Mapping[str, Any] | None,
    shown: str,
) -> str:
    """Write the README of an exported model.

    Args:
        base: model that the run began with, in a few words.
        environment: its name.
        strategy: the method's name.
        step: training steps behind the weights.
        evaluation: the line of ``metrics.jsonl`` that belongs to this step, if any.
        shown: what the prompt had beside the task, in a sentence.
    """
    head = {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["grpo", "jax", "agent-skills", environment],
    }
    lines = [
        f"---\n{yaml.safe_dump(head, sort_keys=False)}---",
        "",
        f"# A policy for {environment}",
        "",
        f"Trained from {base} by `{strategy}` for {step} steps with reskill_jax. "
        "`run_config.json` is the configuration of the run, `report.html` tells of the "
        "whole run, later steps included.",
        "",
        "## Success",
        "",
        *_success(evaluation),
        "",
        "## Skills",
        "",
        shown,
    ]
    lines += [
        "",
        "## Use",
        "",
        "The prompt is a growing conversation (the trunk) with a part for the current "
        "turn, which holds admissible actions and active skills; actions are written "
        "as `<action>...</action>`, or as the environment asks. Results hold for this "
        "environment, prompt and sampling only.",
        "",
    ]
    return "\n".join(lines)


def _success(evaluation: Mapping[str, Any] | None) -> list[str]:
    """Write a row for each split: rate, its standard error, tasks and their hash."""
    panels = (evaluation or {}).get("panels") or {}
    if not evaluation or not panels:
        return ["Not evaluated at this step."]
    rows = [
        "| split | greedy success | standard error | tasks:hash |",
        "|---|---|---|---|",
    ]
    for split, panel in panels.items():
        rate = evaluation.get(f"{split}/success")
        if rate is None or f"{split}/void" in evaluation:
            rows.append(
                f"| {split} | void: too many tasks failed for good | | {panel} |"
            )
            continue
        tasks = int(panel.partition(":")[0])
        error = (rate * (1 - rate) / tasks) ** 0.5
        rows.append(f"| {split} | {rate:.1%} | {error:.1%} | {panel} |")
    sampled = [
        (split, name) for split in panels for name in sampled_names(evaluation, split)
    ]
    if sampled:
        rows += [
            "",
            "mean@n is the success of n samples per task, pass@k the chance that one "
            "of k succeeds; intervals are over tasks.",
            "",
            "| split | sampled | temperature | value | 95% interval |",
            "|---|---|---|---|---|",
        ]
    for split, name in sampled:
        value, low, high = (
            evaluation[f"{split}/{name}{end}"] for end in ("", "_low", "_high")
        )
        shown = f"{value:.1%} | {low:.1%} to {high:.1%}"
        temperature = evaluation[f"{split}/temperature"]
        rows.append(f"| {split} | {name} | {temperature:g} | {shown} |")
    return rows
