"""Writes demonstrations of the laboratory as episodes that any policy can learn from.

    python -m reskill_jax.laboratory.record --tasks=200 --output=DIR
    python -m reskill_jax.supervise --config=configs/alfworld.py:cpu \
        --episodes=DIR/episodes.jsonl --bank=DIR/skills --policy=MODEL --output=POLICY

An expert that errs on purpose, and obeys the skills that it is shown, plays the tasks
of a recipe; see `demonstrator`. Episodes are text: tokenizer, chat template and prompts
are those of whoever learns from them. `supervise` leaves lost ones out.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from absl import flags

from reskill_jax import terminal
from reskill_jax.command_line import start
from reskill_jax.laboratory.collect import demonstrate_all, find_tasks
from reskill_jax.laboratory.recipe import RECIPES, Recipe
from reskill_jax.rollout.demonstration import Demonstration, as_line
from reskill_jax.skills.skill import Skill, SkillBank
from reskill_jax.skills.skill_md import save_bank
from reskill_jax.storage import new_directory, refuse_existing, write_text


def main() -> None:
    """Run the command."""
    recipe = RECIPES[_RECIPE.value]
    teaching = recipe.fluent if _FLUENT.value else recipe.teaching
    chosen = replace(
        recipe,
        num_houses=_TASKS.value or recipe.num_houses,
        episodes=_EPISODES.value,
        teaching=replace(teaching, max_turns=_TURNS.value or teaching.max_turns),
        seed=_SEED.value,
    )
    try:
        count, success = record(
            chosen, Path(_OUTPUT.value), workers=os.cpu_count() or 1
        )
    except (ValueError, OSError, RuntimeError) as error:
        terminal.fail(error)
    print(f"{count} episodes, {success:.1%} successful; {_OUTPUT.value}")


def record(recipe: Recipe, output: Path, *, workers: int) -> tuple[int, float]:
    """Demonstrate and write; `output` appears whole or not at all.

    Args:
        recipe: the tasks, how often each is played, and how.
        output: directory to make, with ``episodes.jsonl`` and ``skills/``.
        workers: processes that play.

    Returns:
        Number of episodes, and their success.

    Raises:
        FileExistsError: `output` is there already.
    """
    refuse_existing(output)
    tasks = find_tasks(recipe, workers=workers)
    demonstrations = demonstrate_all(
        tasks,
        recipe.teaching,
        recipe.episodes,
        recipe.seed,
        workers=workers,
        world=recipe.world_name,
    )
    names = name_apart(demonstrations)
    bank = SkillBank(tuple(replace(skill, name=name) for skill, name in names.items()))
    lines = [json.dumps(as_line(shown, names)) + "\n" for shown in demonstrations]
    with new_directory(output) as unfinished:
        save_bank(bank, unfinished / "skills")
        write_text(unfinished / "episodes.jsonl", "".join(lines))
    won = sum(shown.success for shown in demonstrations)
    return len(demonstrations), won / len(demonstrations)


def name_apart(demonstrations: Sequence[Demonstration]) -> dict[Skill, str]:
    """Give every skill that is shown a name of its own, in order of appearance.

    A rule has several wordings, all of its name; the skills of a bank have different
    ones.
    """
    names: dict[Skill, str] = {}
    counts: dict[str, int] = {}
    for demonstration in demonstrations:
        for turn in demonstration.turns:
            for skill in turn.skills:
                if skill not in names:
                    counts[skill.name] = counts.get(skill.name, 0) + 1
                    names[skill] = f"{skill.name}-{counts[skill.name]}"
    return names


if __name__ == "__main__":  # flags are the program's, not of those who import it
    _RECIPE = flags.DEFINE_enum(
        "recipe", "alfworld-small", sorted(RECIPES), "Whose tasks, and how it plays."
    )
    _TASKS = flags.DEFINE_integer(
        "tasks", 0, "How many tasks; 0: as many as the recipe has.", lower_bound=0
    )
    _EPISODES = flags.DEFINE_integer("episodes", 1, "Of each task.", lower_bound=1)
    _TURNS = flags.DEFINE_integer(
        "max_turns", 0, "Most turns of an episode; 0: the recipe's.", lower_bound=0
    )
    _FLUENT = flags.DEFINE_bool(
        "fluent", False, "Without skills, and with hardly any mistakes."
    )
    _SEED = flags.DEFINE_integer("seed", 0, "Of tasks, skills and mistakes.")
    _OUTPUT = flags.DEFINE_string("output", None, "New directory.", required=True)
    start(main)
