"""An expert that errs on purpose and obeys the skills it is shown.

Cloned from such demonstrations, a small policy reads its skills and leaves room to
improve: without a skill it repeats the demonstrator's habits, of which some are bad; a
skill that names the right (or the wrong) thing to do is followed.
"""

import random
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from reskill_jax.creator.rules import HARMFUL, HELPFUL
from reskill_jax.environments.base import Task
from reskill_jax.skills.skill import Skill, SkillBank
from reskill_jax.warm_start.obey import OBEY
from reskill_jax.warm_start.world import World


@dataclass(frozen=True)
class Habits:
    """How often the demonstrator does something else than its expert, by situation."""

    open: float = 0.5  # opening what is closed
    take: float = 0.2  # taking what is wanted
    search: float = 0.3  # going to a place that the expert picked
    prepare: float = 0.85  # heating, cooling, cleaning before placing
    deliver: float = 0.15  # carrying the finished object to the goal
    place: float = 0.15  # putting it down there
    lamp: float = 0.6  # using the lamp


@dataclass(frozen=True)
class Teaching:
    """How demonstrations are made.

    Attributes:
        max_turns: an episode without success ends after this many.
        skilled: share of episodes that carry skills.
        max_skills: a skilled episode carries 1 to this many.
        general: share of skills shown at every turn, instead of by their own trigger.
        helpful: chance that a skill is drawn from the helpful rules.
        patience: an episode ends when harmful skills were obeyed this often.
        slips: share of turns lost on a command that is impossible. They are read and
            not imitated: the policy learns what to do after "Nothing happens."
        habits: the expert's errors where no skill speaks.
    """

    max_turns: int = 16
    skilled: float = 0.6
    max_skills: int = 2
    general: float = 0.4
    helpful: float = 0.7
    patience: int = 6
    slips: float = 0.1
    habits: Habits = Habits()


@dataclass(frozen=True)
class Moment:
    """One demonstrated turn: what was seen, shown and done; whether to imitate it."""

    observation: str
    admissible: tuple[str, ...]
    skills: tuple[Skill, ...]
    action: str
    imitated: bool = True


@dataclass(frozen=True)
class Demonstration:
    """One demonstrated episode."""

    task: Task
    goal: str
    moments: tuple[Moment, ...]
    final_observation: str
    success: bool


def demonstrate(
    environment: Any, task: Task, teaching: Teaching, seed: int
) -> Demonstration:
    """Play one episode in an `AlfworldEnvironment` and record it.

    Everything random follows from `seed` and the task's id.
    """
    from reskill_jax.environments.alfworld_expert import Expert  # noqa: PLC0415

    rng = random.Random(f"{seed}/{task.id}")
    bank = draw_bank(rng, teaching)
    goal, now = environment.reset(task)
    world = World.start(task, now.text)
    expert = Expert()
    expert.reset(task, now)
    moments: list[Moment] = []
    harmed = 0
    offered: dict[str, None] = {}  # commands that were possible so far, in order
    while not now.done and len(moments) < teaching.max_turns:
        skills = bank.active(moments[-1].action if moments else None)
        offered |= dict.fromkeys(now.admissible)
        slips = rng.random() < teaching.slips
        if slips and (impossible := slip(rng, world, offered, now.admissible)):
            moments.append(Moment(now.text, now.admissible, skills, impossible, False))
        else:
            advice = expert.propose() or "look"
            skill, action = obey(skills, world, now.admissible, advice)
            harmed += skill in _HARMFUL
            if harmed > teaching.patience:
                break
            if skill is None:
                action = err(rng, world, now.admissible, advice, teaching.habits)
            moments.append(Moment(now.text, now.admissible, skills, action))
        action = moments[-1].action
        now = environment.step(action)
        world.advance(action, now.text)
        expert.observe(now)
    return Demonstration(task, goal, tuple(moments), now.text, now.success)


_HARMFUL = {rule.name for rule in HARMFUL}


def draw_bank(rng: random.Random, teaching: Teaching) -> SkillBank:
    """Draw the skills of one episode: rules, wordings and triggers at random."""
    if rng.random() >= teaching.skilled:
        return SkillBank()
    skills: dict[str, Skill] = {}
    for _ in range(rng.randint(1, teaching.max_skills)):
        helpful = rng.random() < teaching.helpful
        rule = rng.choice(HELPFUL if helpful else HARMFUL)
        skill = rule.skill(
            rng.randrange(len(rule.wordings)),
            general=helpful and rng.random() < teaching.general,
        )
        skills.setdefault(rule.name, skill)
    return SkillBank(tuple(skills.values()))


def obey(
    skills: Sequence[Skill], world: World, admissible: Sequence[str], expert: str
) -> tuple[str | None, str]:
    """Return the first skill that applies and what it asks for; (None, "") if none."""
    for skill in skills:
        if command := OBEY[skill.name](world, admissible, expert):
            return skill.name, command
    return None, ""


def slip(
    rng: random.Random, world: World, offered: Iterable[str], admissible: Sequence[str]
) -> str | None:
    """Return a command that was possible once, often the last one; None without any."""
    stale = [command for command in offered if command not in admissible]
    if world.last in stale and rng.random() < 0.5:
        return world.last
    return rng.choice(stale) if stale else None


def situation(world: World, expert: str) -> str | None:
    """Name the habit that the expert's command falls under; None for idle commands."""
    verb = expert.split(" ", 1)[0]
    if verb == "go":
        if not world.carries_target:
            return "search"
        if world.kind == "look_at_obj_in_light":
            return "lamp"
        return "deliver" if world.ready else "prepare"
    by_verb = {"open": "open", "take": "take", "move": "place", "use": "lamp"}
    by_verb |= dict.fromkeys(("heat", "cool", "clean"), "prepare")
    return by_verb.get(verb)


def err(
    rng: random.Random,
    world: World,
    admissible: Sequence[str],
    expert: str,
    habits: Habits,
) -> str:
    """Return the expert's command or, by habit, a worse one."""
    habit = situation(world, expert)
    if habit is None or rng.random() >= getattr(habits, habit):
        return expert
    if habit == "prepare":  # the typical slip: straight to the goal, unprepared
        place = f"move {world.holding} to {world.at}"
        if world.is_goal(world.at) and place in admissible:
            return place
        to_goal = [c for c in admissible if re.fullmatch(rf"go to {world.goal} \d+", c)]
        if to_goal:
            return rng.choice(to_goal)
    wander = [c for c in admissible if c.startswith("go to ") and c != expert]
    idle = [c for c in admissible if c.startswith(("examine", "look", "inventory"))]
    if wander and rng.random() < 0.75:
        return rng.choice(wander)
    return rng.choice(idle or wander)
