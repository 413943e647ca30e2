"""What becomes of skills: how they are written, and how a policy deals with them."""

import re
from collections.abc import Sequence

import numpy as np

from reskill_jax.creator.reservoir import Tally
from reskill_jax.rollout.context import BankContext, Context
from reskill_jax.rollout.episode import Episode, Turn
from reskill_jax.skills.skill import SkillBank

_WORD = re.compile(r"[^\W_]+")
# Episodes in which a skill must not have fired to be dropped untested; one that fires
# in 6% of them would be seen (95%).
IDLE_EPISODES = 50


def lifecycle(bank: SkillBank, episodes: Sequence[Episode]) -> dict[str, float]:
    """Return metrics of a bank, and of the turns that showed skills.

    Args:
        bank: the accepted one.
        episodes: of a step, on whichever banks they ran.

    Returns:
        ``skills/words``: words per skill, what the agent reads of it;
        ``skills/conditional``: share of skills with a trigger that does not always
        fire; ``skills/action_overlap``: share of the different words of a skill's
        advice that occur in actions that were played, mean over skills. Of the turns
        that showed any skill, ``skills/name_as_action``: share whose action is the name
        of one, a known mistake of small policies; ``skills/named``: share that name one
        outside of their action, as in their reasoning. What there is nothing to
        measure on is left out.
    """
    metrics: dict[str, float] = {}
    turns = [turn for episode in episodes for turn in episode.turns]
    if bank.skills:
        texts = [f"{s.when_to_use} {s.action} {s.example}" for s in bank.skills]
        metrics["skills/words"] = float(np.mean([len(_words(text)) for text in texts]))
        conditional = [
            skill.trigger.kind != "general" or bool(skill.trigger.goal)
            for skill in bank.skills
        ]
        metrics["skills/conditional"] = float(np.mean(conditional))
    if bank.skills and turns:
        played = {word for turn in turns for word in _words(turn.action)}
        shares = [_share(set(_words(skill.action)), played) for skill in bank.skills]
        metrics["skills/action_overlap"] = float(np.mean(shares))
    if shown := [turn for turn in turns if turn.active_skills]:
        metrics["skills/name_as_action"] = float(np.mean(list(map(_acted, shown))))
        metrics["skills/named"] = float(np.mean(list(map(_named, shown))))
    return metrics


def lifecycle_of(context: Context, episodes: Sequence[Episode]) -> dict[str, float]:
    """Return the metrics of a context's bank; nothing where it is no bank."""
    if not isinstance(context, BankContext):
        return {}
    return lifecycle(context.bank, episodes)


def idle_episodes(
    bank: SkillBank, candidate: SkillBank, tallies: Sequence[Tally]
) -> int:
    """Return in how many episodes a bundle's dropped skills were never shown.

    Zero where it does more than drop skills, where one was shown, or where too few
    episodes of this bank were played to say so. (What is new and does not fire is
    refused by verification.)
    """
    if set(candidate.skills) - set(bank.skills):
        return 0
    own = [tally for tally in tallies if tally.bank == bank.hash]
    dropped = set(bank.names()) - set(candidate.names())
    shown = sum(tally.shown(name) for tally in own for name in dropped)
    played = sum(tally.episodes for tally in own)
    return played if not shown and played >= IDLE_EPISODES else 0


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def _share(words: set[str], known: set[str]) -> float:
    return len(words & known) / len(words) if words else 0.0


def _acted(turn: Turn) -> bool:
    """Tell whether the action is a shown skill's name, hyphens or blanks between."""
    action = _words(turn.action)
    return any(_words(name) == action for name in turn.active_skills)


def _named(turn: Turn) -> bool:
    """Tell whether a shown skill's name stands in a response, but for its action."""
    text, action = turn.text.lower(), turn.action.lower()
    # A response without an action is all words.
    before, _, after = text.rpartition(action) if action else ("", "", text)
    said = f" {' '.join(_words(f'{before} {after}'))} "
    return any(f" {' '.join(_words(name))} " in said for name in turn.active_skills)
