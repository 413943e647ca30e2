"""Demonstrations in ScienceWorld with the names of animals and plants exchanged.

A task has few variations, so that a small policy learns the names of what lives there
by heart, and then focuses on animals that are not there. Where names change in every
demonstration, it has to read them. All that a task asks for stays true.
"""

import random
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from reskill_jax.environments.protocol import Observation
from reskill_jax.laboratory.science import LONG_LIVED, SHORT_LIVED
from reskill_jax.rollout.demonstration import Demonstration

_ANIMAL = re.compile(r"^\ta (baby )?([a-z ]+?)( egg)?$", re.M)
_PLANT = re.compile(r"\(containing an? ([a-z]+ (?:tree|plant)) in the ")
_POTS = tuple(str(number) for number in range(1, 11))
_POT = re.compile(r"(?<=\bflower pot )\d+\b")
_COLOURS = ("red", "green", "blue", "orange", "yellow", "purple")
_BOX = re.compile(rf"\b(?:{'|'.join(_COLOURS)})(?= box\b)")


@dataclass(frozen=True)
class ScienceNames:
    """Names that may be exchanged for each other, sorted.

    Attributes:
        animals: a kind of animal -> its name in listings, "wolf" -> "baby wolf".
        plants: "pea plant".
    """

    animals: Mapping[str, str]
    plants: tuple[str, ...]

    @classmethod
    def of(cls, demonstrations: Iterable[Demonstration]) -> "ScienceNames":
        """Collect the names that occur in observations."""
        animals: dict[str, str] = {}
        plants: set[str] = set()
        for demonstration in demonstrations:
            for turn in demonstration.turns:
                for baby, kind, egg in _ANIMAL.findall(turn.observation.text):
                    if baby or egg:
                        animals[kind] = f"{baby}{kind}{egg}"
                plants.update(_PLANT.findall(turn.observation.text))
        return cls(dict(sorted(animals.items())), tuple(sorted(plants)))

    def shuffle(self, original: Demonstration, rng: random.Random) -> Demonstration:
        """Exchange names throughout one demonstration, consistently."""
        other: dict[str, str] = {}
        for names in (*self._alike(original.goal), self.plants, _POTS, _COLOURS):
            other |= zip(names, rng.sample(names, len(names)), strict=True)
        kinds = "|".join(sorted(self.animals, key=len, reverse=True))
        animal = re.compile(rf"\b(baby )?({kinds})( egg)?\b")
        plant = re.compile(rf"\b(?:{'|'.join(self.plants)})\b")

        def rename_animal(found: re.Match[str]) -> str:
            kind = other[found[2]]
            return self.animals[kind] if found[1] or found[3] else kind

        def rename(text: str) -> str:
            if self.animals:
                text = animal.sub(rename_animal, text)
            for names in (plant, _POT, _BOX) if self.plants else (_POT, _BOX):
                text = names.sub(lambda name: other.get(name[0], name[0]), text)
            return text

        return replace(
            original,
            goal=rename(original.goal),
            final_observation=rename(original.final_observation),
            turns=tuple(
                replace(
                    turn,
                    observation=Observation(
                        rename(turn.observation.text),
                        tuple(map(rename, turn.observation.choices)),
                    ),
                    action=rename(turn.action),
                    response=turn.response and rename(turn.response),
                )
                for turn in original.turns
            ),
        )

    def _alike(self, goal: str) -> list[tuple[str, ...]]:
        """Return groups of animals that are the same to a goal."""
        if "life span" not in goal:
            return [tuple(self.animals)]
        ranks = {**dict.fromkeys(LONG_LIVED, 1), **dict.fromkeys(SHORT_LIVED, -1)}
        return [
            tuple(kind for kind in self.animals if ranks.get(kind, 0) == rank)
            for rank in (1, 0, -1)
        ]
