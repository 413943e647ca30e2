"""Checks how a strategy's settings fit each other and the parts around it."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from reskill_jax.memories.skill_files import read_entries
from reskill_jax.skills.skill_md import load_bank
from reskill_jax.strategies import NEED_BANK, WITHOUT_BANK, holds_trials


def problems(
    *,
    name: str,
    bank: str,
    candidates: int,
    frozen: bool,
    skillrl: Mapping[str, Any],
    eval_splits: Sequence[str],
    reservoir_size: int,
    reservoir_min: int,
    group_size: int,
    trial_preset: str,
    **_: Any,
) -> Iterator[str]:
    """Yield what does not fit; each problem begins with the argument's name.

    Args:
        name: of the strategy.
        bank: directory of skills to start from; empty: none.
        candidates: proposals on trial at once, at most.
        frozen: whether the policy never learns.
        skillrl: settings of SkillRL.
        eval_splits: splits that are reported.
        reservoir_size: episodes kept for the creator.
        reservoir_min: episodes before it is asked.
        group_size: rollouts per task.
        trial_preset: see `trial_config.PRESETS`.
    """
    if bank and name in WITHOUT_BANK:
        yield (
            f"bank={bank!r} would be ignored by name={name!r}: leave it empty, or use "
            "name='static', which always shows this bank"
        )
    elif bank:
        yield from _bank_problems(name, bank)
    if name in NEED_BANK and not bank:
        yield (
            f"bank='': name={name!r} needs a directory of skills; without skills use "
            "name='grpo'"
        )
    if holds_trials(name) and group_size < 1 + candidates:
        yield (
            f"candidates={candidates}: a trial divides a group of {group_size} between "
            f"{1 + candidates} banks: use fewer, a larger group_size, or name='grpo'"
        )
    if trial_preset != "ours" and candidates > 1:
        yield (
            f"candidates={candidates}: a trial of preset={trial_preset!r} has one, "
            "those of preset='ours' take more"
        )
    if _is_skillrl(name):
        yield from _skillrl_problems(skillrl, eval_splits)
    if frozen and name in ("skill_first", "policy_first"):
        yield (
            f"name={name!r} has a stage in which the policy learns, and this one is "
            "frozen: use name='reskill'"
        )
    if reservoir_min > reservoir_size:
        yield (
            f"reservoir_min={reservoir_min} exceeds reservoir_size={reservoir_size}: "
            "the creator would never be asked; lower it"
        )


def trial_problems(
    *, strategy: str, min_episodes: int, max_steps: int, episodes: int
) -> Iterator[str]:
    """Yield why a trial could not end when it should; begins with the argument's name.

    Args:
        strategy: name of the strategy.
        min_episodes: see `TrialConfig`.
        max_steps: likewise.
        episodes: of a step.
    """
    if holds_trials(strategy) and min_episodes > max_steps * episodes:
        yield (
            f"min_episodes={min_episodes}: max_steps={max_steps} have "
            f"{max_steps * episodes} episodes, and the trial would go on beyond them: "
            "lower the one or raise the other"
        )


def own_splits(name: str, skillrl: Mapping[str, Any]) -> dict[str, str]:
    """Return the splits that a strategy plays tasks of beside those of a run.

    Args:
        name: of the strategy.
        skillrl: settings of SkillRL.

    Returns:
        Splits by the arguments that ask for them.
    """
    if not _is_skillrl(name) or skillrl["evolve_from"] == "train":
        return {}
    if skillrl["evolve_from"] == "dev":
        return {"skillrl.evolve_from='dev'": "dev"}
    split = skillrl["reported_split"]
    return {f"skillrl.reported_split={split!r}": split}


def _is_skillrl(name: str) -> bool:
    return name in ("skillrl", "skillrl_frozen")


def _skillrl_problems(
    skillrl: Mapping[str, Any], eval_splits: Sequence[str]
) -> Iterator[str]:
    if skillrl["evolve_from"] == "dev" and "dev" in eval_splits:
        yield (
            "skillrl.evolve_from='dev': dev is in eval.splits, so that its figures "
            "would leak: evaluate on other splits"
        )
    if skillrl["library"]:
        named = f"skillrl.library={skillrl['library']!r}"
        try:
            if not read_entries(Path(skillrl["library"])):
                yield f"{named} holds no skills: to start without, use ''"
        except ValueError as error:
            yield f"{named}: {error}"


def _bank_problems(name: str, bank: str) -> Iterator[str]:
    if not Path(bank).is_dir():
        yield f"bank={bank!r} is not a directory: name one with SKILL.md directories"
        return
    try:
        skills = load_bank(bank).skills
    except ValueError as error:
        yield f"bank={bank!r}: {error}"
    else:
        if name in NEED_BANK and not skills:
            yield f"bank={bank!r} holds no skills: without any use name='grpo'"
