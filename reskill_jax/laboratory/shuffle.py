"""Demonstrations with the names of things and places exchanged.

Which room has a stove is learnt in no time, and then a small policy goes to stoves that
are not there. Where names are shuffled anew in every demonstration, all that helps is
to read: the policy learns to copy what it sees.
"""

import random
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

from reskill_jax.laboratory.demonstrator import Demonstration

_NAME = re.compile(r"\b([a-z]+) \d+")
_WORD = re.compile(r"[a-z]+")
# What a task's verb needs keeps its name, or the task would lose its meaning.
_KEPT = {"microwave", "fridge", "sinkbasin", "desklamp"}


@dataclass(frozen=True)
class Names:
    """Kinds that may stand for each other: of places and of things, sorted."""

    places: tuple[str, ...]
    things: tuple[str, ...]

    @classmethod
    def of(cls, demonstrations: Iterable[Demonstration]) -> "Names":
        """Collect the names that occur; those in a room's description are places."""
        places: set[str] = set()
        named: set[str] = set()
        for demonstration in demonstrations:
            places.update(_NAME.findall(demonstration.moments[0].observation))
            for moment in demonstration.moments:
                named.update(_NAME.findall(moment.observation))
        things = named - places - _KEPT
        return cls(tuple(sorted(places - _KEPT)), tuple(sorted(things)))

    def shuffle(self, original: Demonstration, rng: random.Random) -> Demonstration:
        """Exchange names throughout one demonstration, each always for the same."""
        other: dict[str, str] = {}
        for names in (self.places, self.things):
            other |= zip(names, rng.sample(names, len(names)), strict=True)

        def rename(text: str) -> str:
            return _WORD.sub(lambda word: other.get(word[0], word[0]), text)

        return replace(
            original,
            goal=rename(original.goal),
            final_observation=rename(original.final_observation),
            moments=tuple(
                replace(
                    moment,
                    observation=rename(moment.observation),
                    admissible=tuple(map(rename, moment.admissible)),
                    action=rename(moment.action),
                    taught=moment.taught and rename(moment.taught),
                )
                for moment in original.moments
            ),
        )
