"""What a laboratory's policy is warmed in: a world with a script that plays it.

A recipe names its world. A further one is an entry here, a script
(`demonstrator.Script`) and a recipe; training does not know which it is.
"""

import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

from reskill_jax.environments.action_format import ActionFormat
from reskill_jax.environments.alfworld import environment as alfworld
from reskill_jax.environments.alfworld import rules as alfworld_rules
from reskill_jax.environments.alfworld.games import cached_houses
from reskill_jax.environments.alfworld.wordings import WORDINGS as ALFWORLD_WORDINGS
from reskill_jax.environments.protocol import Environment, Task
from reskill_jax.environments.scienceworld import environment as scienceworld
from reskill_jax.environments.scienceworld import tasks as science_tasks
from reskill_jax.environments.scienceworld.wordings import WORDINGS as SCIENCE_WORDINGS
from reskill_jax.environments.wording import Wording
from reskill_jax.laboratory.demonstrator import Demonstrator, Script
from reskill_jax.laboratory.science import TAUGHT, ScienceDemonstrator
from reskill_jax.laboratory.science_names import ScienceNames
from reskill_jax.laboratory.shuffle import Names
from reskill_jax.rollout.demonstration import Demonstration
from reskill_jax.skills.rule import Rule


class Shuffler(Protocol):
    """Exchanges names in demonstrations, so that a policy learns to read them."""

    def shuffle(self, original: Demonstration, rng: random.Random) -> Demonstration:
        """Return a demonstration with other names."""
        ...


class KeepNames:
    """Exchanges nothing."""

    def shuffle(self, original: Demonstration, rng: random.Random) -> Demonstration:
        """Return the demonstration."""
        del rng
        return original


@dataclass(frozen=True)
class World:
    """Where demonstrations are made.

    Attributes:
        tasks: lists tasks of a size, at most so many, with a seed and a number of
            processes.
        make: makes an environment; picklable.
        action_format: how the policy's responses are read.
        script: plays and corrects.
        wordings: of prompts, by name.
        rules: whose texts the tokenizer must know.
        names: makes what exchanges names, from demonstrations.
        response_tokens: most tokens of a response.
    """

    tasks: Callable[[str, int, int, int], list[Task]]
    make: Callable[[], Environment]
    action_format: ActionFormat
    script: type[Script]
    wordings: Mapping[str, Wording]
    rules: tuple[Rule, ...]
    names: Callable[[Iterable[Demonstration]], Shuffler]
    response_tokens: int = 16


def _houses(size: str, count: int, seed: int, workers: int) -> list[Task]:
    """Return houses of a size, building them if need be."""
    houses = cached_houses(size, train=count, held_out=0, seed=seed, workers=workers)
    return alfworld.find_games(str(houses), "train")


def _science(size: str, count: int, seed: int, workers: int) -> list[Task]:
    """Return variations of the tasks of a choice, of each as many as of others."""
    del seed, workers
    names, _ = science_tasks.CHOICES[size]
    panel = science_tasks.panel(names, (), "train", count, simplifications="easy")
    return list(panel.tasks)


WORLDS = {
    "alfworld": World(
        tasks=_houses,
        make=alfworld.AlfworldEnvironment,
        action_format=alfworld.ACTION_FORMAT,
        script=Demonstrator,
        wordings=ALFWORLD_WORDINGS,
        rules=alfworld_rules.RULES,
        names=Names.of,
    ),
    "scienceworld": World(
        tasks=_science,
        make=partial(scienceworld.ScienceWorldEnvironment, heap_mb=1024),
        action_format=scienceworld.ACTION_FORMAT,
        script=ScienceDemonstrator,
        wordings=SCIENCE_WORDINGS,
        rules=TAUGHT,
        names=lambda _: KeepNames(),
        response_tokens=24,
    ),
}
# The same simulator; what lives there has other names in every demonstration.
WORLDS["scienceworld-renamed"] = replace(WORLDS["scienceworld"], names=ScienceNames.of)
