"""One query at a time: look at products as often as you like, then choose one."""

import re
from collections.abc import Callable

import msgspec

from reskill_jax.environments.protocol import Observation
from reskill_jax.environments.task import Task
from reskill_jax.environments.untrusted import one_line, tagged_problem
from reskill_jax.environments.wands.files import feature_key
from reskill_jax.environments.wands.panels import Offer, Source
from reskill_jax.environments.wands.wordings import REQUEST, TAGS

MAX_CHARACTERS = 100  # between two tags: a number, and the name of a feature
_ACTION = re.compile(rf"({'|'.join(TAGS)})\[(.*)\]", re.DOTALL)
_NUMBER = re.compile(r"(?:product )?([0-9]{1,2})", re.IGNORECASE)


def reply_limit(candidates: int) -> int:
    """Return how many replies an episode with so many products has."""
    return 3 * candidates + 2


class WandsEnvironment:
    """Plays one task at a time (see `reskill_jax.environments.protocol.Environment`).

    An episode ends with a choice, or without one after `reply_limit` replies, valid or
    not: what the paper calls the horizon depends on the number of products.

    Args:
        characters: longest text of a product that is shown.
    """

    def __init__(self, *, characters: int):
        self._characters = characters
        self._asked = Source("", (), 0)
        self._looks: list[int] = []  # indices of products, one per look
        self._replies = 0

    def reset(self, task: Task) -> tuple[str, Observation]:
        """Return the query, and how many products there are."""
        self._asked = msgspec.json.decode(task.source, type=Source)
        self._looks, self._replies = [], 0
        *most, last = map(str, range(1, len(self._asked.offers) + 1))
        text = f"There are products {', '.join(most)} and {last}."
        return self._line(self._asked.query), Observation(text, hint=self._left())

    def step(self, action: str) -> Observation:
        """Show something of a product, or take the choice, which ends the episode."""
        self._replies += 1
        read = _ACTION.fullmatch(action)
        if read is None:
            return self._invalid(f"Reply with {REQUEST}.")
        tag, text = read[1], read[2].strip()
        if problem := tagged_problem(text, MAX_CHARACTERS):
            return self._invalid(problem)
        number, comma, name = text.partition(",")
        found = _NUMBER.fullmatch(number.strip())
        count = len(self._asked.offers)
        if found is None or not 1 <= int(found[1]) <= count:
            return self._invalid(f"Begin with the number of a product, 1 to {count}.")
        key = feature_key(name)
        if (tag == "attr") != bool(key) or (comma and tag != "attr"):
            wanted = "a number, a comma and a name" if tag == "attr" else "one number"
            return self._invalid(f"{tag} takes {wanted}.")
        index = int(found[1]) - 1
        if tag == "choose":
            return self._chosen(index)
        self._looks.append(index)
        shown = f"Product {index + 1}{_SHOW[tag](self._asked.offers[index], key)}"
        return self._seen(Observation(self._line(shown), hint=self._left()))

    def finish(self) -> Observation:
        """Score an episode without a choice: nothing."""
        return Observation("", done=True, scores=self._scores(chosen=False))

    def close(self) -> None:
        """Free nothing."""

    def _chosen(self, index: int) -> Observation:
        right = index == self._asked.right
        return Observation(
            "Chosen.",
            reward=float(right),
            done=True,
            success=right,
            scores=self._scores(chosen=True),
        )

    def _invalid(self, problem: str) -> Observation:
        text = f"Invalid. {problem}"
        return self._seen(Observation(text, hint=self._left(), understood=False))

    def _seen(self, now: Observation) -> Observation:
        """End the episode where no reply is left."""
        if self._replies < reply_limit(len(self._asked.offers)):
            return now
        return Observation(
            now.text,
            understood=now.understood,
            done=True,
            scores=self._scores(chosen=False),
        )

    def _left(self) -> str:
        left = reply_limit(len(self._asked.offers)) - self._replies
        return "This is the last turn." if left == 1 else f"{left} turns are left."

    def _scores(self, *, chosen: bool) -> dict[str, float]:
        return {
            "chosen": float(chosen),
            "looks": float(len(self._looks)),
            "looked_at": len({*self._looks}) / max(len(self._asked.offers), 1),
        }

    def _line(self, text: str) -> str:
        return one_line(text, self._characters, TAGS)


def _inspect(offer: Offer, key: str) -> str:
    return f": {offer.name}; class: {offer.kind or '?'}; rating: {offer.rating or '?'}"


def _attr(offer: Offer, key: str) -> str:
    value = offer.features.get(key)
    return f", {key}: {value}" if value is not None else f" has no feature {key}."


def _attrs(offer: Offer, key: str) -> str:
    return ". " + "; ".join(f"{key}: {text}" for key, text in offer.features.items())


def _desc(offer: Offer, key: str) -> str:
    return f". {offer.description or 'It has no description.'}"


_SHOW: dict[str, Callable[[Offer, str], str]] = {
    "inspect": _inspect,
    "attr": _attr,
    "attrs": _attrs,
    "desc": _desc,
}
