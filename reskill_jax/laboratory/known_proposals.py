"""Creators for experiments: a list of proposals, and one mixed into another stream.

The trial benchmark feeds bundles whose effect it knows; the laboratory injects harmful
bundles into an honest creator's stream to see what each strategy does with them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from reskill_jax.creator.proposal import Creator, Evidence, Pending, Proposal
from reskill_jax.environments.alfworld.rules import HARMFUL, HELPFUL
from reskill_jax.skills.operations import Add
from reskill_jax.skills.rule import Rule


def addition(*rules: Rule) -> Proposal:
    """Write a bundle that adds the given rules, for no bank in particular."""
    return Proposal(
        operations=tuple(Add(rule.skill(general=True)) for rule in rules),
        reasons=tuple(f"given: {rule.description}" for rule in rules),
        evidence=(),
        bank="",
    )


# Bundles of known kind for experiments: the most helpful one first (with it the shipped
# policy wins 30% of sampled episodes instead of 12%).
_SAYS_NOTHING = (
    ("You are about to act.", "Act as you think best."),
    ("A task is to be done.", "Go about it in your own way."),
    ("You read this line.", "Carry on."),
    ("It is your turn.", "Do what you would do without this line."),
    ("Something was observed.", "Make of it what you make of it."),
    ("The episode goes on.", "Go on as you see fit."),
)
# Every condition with every advice, for what was tried once is not tried again: the
# written pairs first, then each condition with the advice after its own, and so on.
NEUTRAL = tuple(
    Rule(
        f"remark-{1 + turn * len(_SAYS_NOTHING) + place}",
        "Says nothing.",
        ((when, _SAYS_NOTHING[(place + turn) % len(_SAYS_NOTHING)][1]),),
    )
    for turn in range(len(_SAYS_NOTHING))
    for place, (when, _) in enumerate(_SAYS_NOTHING)
)
KNOWN = {
    # Trials of these are A/A tests: what they accept is a false acceptance.
    "neutral": tuple((rule,) for rule in NEUTRAL),
    "helpful": (HELPFUL[3:4], HELPFUL[:2], HELPFUL[4:6]),
    "harmful": tuple((rule,) for rule in HARMFUL),
}


def known_proposals(kind: str, seed: int) -> list[Proposal]:
    """Return the bundles of a kind; the seed says which harmful one comes first.

    Raises:
        ValueError: there is no such kind.
    """
    if kind not in KNOWN:
        raise ValueError(f"inject={kind!r}: choose one of {list(KNOWN)}")
    bundles = KNOWN[kind]
    first = seed % len(bundles) if kind == "harmful" else 0
    return [addition(*bundle) for bundle in bundles[first:] + bundles[:first]]


class ScriptedCreator:
    """Yields given proposals in order, then None.

    Args:
        proposals: what to yield; each is written anew for the bank of the moment.
    """

    def __init__(self, proposals: Sequence[Proposal]):
        self._proposals = tuple(proposals)
        self._next = 0

    def propose(self, evidence: Evidence) -> Proposal | None:
        """Return the next proposal of the list; None at its end."""
        if self._next == len(self._proposals):
            return None
        proposal = self._proposals[self._next]
        self._next += 1
        return replace(proposal, bank=evidence.bank.hash)

    def take_metrics(self) -> dict[str, float]:
        """Return nothing."""
        return {}

    def state(self) -> dict[str, Any]:
        """Return how far the list is used up."""
        return {"next": self._next}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` returned.

        Raises:
            ValueError: the state is of a longer list.
        """
        if state["next"] > len(self._proposals):
            raise ValueError(
                f"next={state['next']}: the list has {len(self._proposals)} proposals:"
                " use the list that the run began with"
            )
        self._next = state["next"]


class Injecting:
    """Replaces every k-th proposal of a creator by the next of a list, up to its end.

    Args:
        creator: the stream to mix into.
        every: calls `every`, 2 `every`, ... yield an injected proposal.
        proposals: what to inject, in order.

    Raises:
        ValueError: `every` is below 1.
    """

    def __init__(self, creator: Creator, every: int, proposals: Sequence[Proposal]):
        if every < 1:
            raise ValueError(f"every={every}: must be 1 or more")
        self._creator = creator
        self._every = every
        self._injected = ScriptedCreator(proposals)
        self._calls = 0

    def propose(self, evidence: Evidence) -> Proposal | Pending | None:
        """Return an injected proposal when it is due, else ask the creator."""
        self._calls += 1
        if self._calls % self._every == 0:
            injected = self._injected.propose(evidence)
            if injected is not None:
                return injected
        proposal = self._creator.propose(evidence)
        if isinstance(proposal, Pending):
            self._calls -= 1  # the same call, asked again at the next step
        return proposal

    def take_metrics(self) -> dict[str, float]:
        """Return the creator's."""
        return self._creator.take_metrics()

    def state(self) -> dict[str, Any]:
        """Return the counters and the creator's own state."""
        return {
            "calls": self._calls,
            "injected": self._injected.state(),
            "creator": self._creator.state(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` returned."""
        self._calls = state["calls"]
        self._injected.restore(state["injected"])
        self._creator.restore(state["creator"])
