"""Demonstrations with the names of objects and places exchanged.

A small policy soon learns by heart which rooms have a stove, and then goes to stoves
that are not there. Where names are shuffled anew in every demonstration, only reading
helps: the policy learns to copy names from the prompt.
"""

import random
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

from reskill_jax.environments.protocol import Observation
from reskill_jax.rollout.demonstration import Demonstration

_NAME = re.compile(r"\b([a-z]+) \d+")
_WORD = re.compile(r"[a-z]+")
# Names that the verbs of tasks refer to, which would lose their meaning.
_KEPT = {"microwave", "fridge", "sinkbasin", "desklamp"}


@dataclass(frozen=True)
class Names:
    """Types that may be exchanged for each other: of places and of objects, sorted."""

    places: tuple[str, ...]
    things: tuple[str, ...]

    @classmethod
    def of(cls, demonstrations: Iterable[Demonstration]) -> "Names":
        """Collect the types that occur; those in a room's description are places."""
        places: set[str] = set()
        named: set[str] = set()
        for demonstration in demonstrations:
            places.update(_NAME.findall(demonstration.turns[0].observation.text))
            for turn in demonstration.turns:
                named.update(_NAME.findall(turn.observation.text))
        things = named - places - _KEPT
        return cls(tuple(sorted(places - _KEPT)), tuple(sorted(things)))

    def shuffle(self, original: Demonstration, rng: random.Random) -> Demonstration:
        """Exchange names throughout one demonstration, consistently."""
        other: dict[str, str] = {}
        for names in (self.places, self.things):
            other |= zip(names, rng.sample(names, len(names)), strict=True)

        def rename(text: str) -> str:
            return _WORD.sub(lambda word: other.get(word[0], word[0]), text)

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
