"""Texts in the form of a skill that say nothing.

A policy that has read many of them, beside episodes of every kind, learns that it is
what a skill says that counts, and not that there is one.
"""

import random

from reskill_jax.skills.skill import Skill

REMARK = "remark"
# None of these is in `known_proposals.NEUTRAL`, which policies are measured with.
WHEN = (
    "Another turn has come.",
    "The text above has been read.",
    "It is day outside.",
    "Some time has gone by.",
    "Nobody is waiting for you.",
    "There are rooms with things in them.",
    "This house has been here for years.",
    "You have been given a goal.",
    "The last observation is above.",
    "Words like these may stand here.",
    "The day is like any other.",
    "You are in a house.",
    "The world is made of text.",
    "Here is a note without a meaning.",
    "A turn is as long as it is.",
    "There may be more turns after this one.",
)
ACTION = (
    "Choose whatever you would choose.",
    "This note asks for nothing.",
    "Proceed in the usual way.",
    "Leave this note aside.",
    "Nothing has to change because of it.",
    "Keep to your own plan, if you have one.",
    "Take the action that you had in mind.",
    "There is no advice here.",
    "It makes no difference.",
    "Play on as before.",
    "The choice is yours.",
    "Follow your habit.",
    "No step is better because of this text.",
    "Be as you are.",
    "One action is as good as another for this note.",
    "Answer as if this were blank.",
)


def draw_remark(rng: random.Random) -> Skill:
    """Draw one of the remarks; it is shown at every turn."""
    return Skill(
        name=REMARK,
        description="Says nothing.",
        when_to_use=rng.choice(WHEN),
        action=rng.choice(ACTION),
    )
