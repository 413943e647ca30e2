"""An expert that errs on purpose and obeys the skills it is shown.

Cloned from such demonstrations, a small policy reads its skills and leaves room to
improve: without a skill it repeats the demonstrator's habits, of which some are bad; a
skill that names the right (or the wrong) thing to do is followed.
"""

import random
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from reskill_jax.environments.alfworld.rules import HARMFUL, HELPFUL
from reskill_jax.environments.alfworld.tracker import (
    LOOK,
    PREPARATIONS,
    TWO,
    Tracker,
)
from reskill_jax.environments.protocol import Environment, Observation, Task
from reskill_jax.laboratory.rule_policy import OBEY
from reskill_jax.skills.skill import Skill, SkillBank


@dataclass(frozen=True)
class Habits:
    """How often the demonstrator does something else than its expert, by situation."""

    open: float = 0.5  # opening what is closed
    take: float = 0.1  # taking what is wanted
    search: float = 0.1  # going to a place that the expert picked
    prepare: float = 0.85  # heating, cooling, cleaning before placing
    deliver: float = 0.05  # carrying the finished object to the goal
    place: float = 0.05  # putting it down there
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
        relevant: chance that a helpful one is drawn from those that decide tasks of the
            episode's kind. Drawn from all, such skills would hardly ever speak.
        patience: an episode ends when harmful skills were obeyed this often.
        slips: share of turns lost on a command that is impossible. They are read and
            not imitated: the policy learns what to do after "Nothing happens."
        habits: the expert's errors where no skill speaks.
    """

    max_turns: int = 16
    skilled: float = 0.7
    max_skills: int = 3
    general: float = 0.4
    helpful: float = 0.75
    relevant: float = 0.5
    patience: int = 6
    slips: float = 0.1
    habits: Habits = Habits()


@dataclass(frozen=True)
class Moment:
    """One turn: what was seen, shown and done, and what should have been done.

    Attributes:
        observation: text before the turn.
        admissible: commands that were possible.
        skills: shown at this turn.
        action: the command that was sent.
        taught: the command to imitate; None if this turn teaches nothing.
    """

    observation: str
    admissible: tuple[str, ...]
    skills: tuple[Skill, ...]
    action: str
    taught: str | None


@dataclass(frozen=True)
class Demonstration:
    """One episode to learn from, played by the demonstrator or corrected by it."""

    task: Task
    goal: str
    moments: tuple[Moment, ...]
    final_observation: str
    success: bool


class Demonstrator:
    """Says turn by turn what to do in one episode, whoever plays it.

    Attributes:
        harmed: how often a harmful skill was obeyed so far.
    """

    def __init__(
        self,
        task: Task,
        first: Observation,
        bank: SkillBank,
        teaching: Teaching,
        rng: random.Random,
    ):
        # Its module imports alfworld, which only those need who demonstrate.
        from reskill_jax.environments.alfworld.expert import Expert  # noqa: PLC0415

        self.harmed = 0
        self._state = Tracker.start(task, first.text)
        self._expert = Expert()
        self._expert.reset(task, first)
        self._bank, self._teaching, self._rng = bank, teaching, rng
        self._previous: str | None = None
        self._now = first
        # Commands that were possible so far, in order.
        self._offered = dict.fromkeys(first.choices)

    @property
    def skills(self) -> tuple[Skill, ...]:
        """The skills shown at this turn."""
        return self._bank.active(self._previous)

    def advise(self) -> str:
        """Return what a shown skill asks for, else the expert's or a bad command."""
        admissible = self._now.choices
        advice = self._expert.propose() or "look"
        skill, action = obey(self.skills, self._state, admissible, advice)
        self.harmed += skill in _HARMFUL
        if skill is not None:
            return action
        return err(self._rng, self._state, admissible, advice, self._teaching.habits)

    def slip(self) -> str | None:
        """Return, as rarely as `Teaching.slips` says, an impossible command."""
        if self._rng.random() >= self._teaching.slips:
            return None
        return slip(self._rng, self._state, self._offered, self._now.choices)

    def follow(self, action: str, now: Observation) -> None:
        """Take in what was done, by whomever, and what came of it."""
        self._state.advance(action, now.text)
        self._expert.observe(now)
        self._previous, self._now = action, now
        self._offered |= dict.fromkeys(now.choices)


def demonstrate(
    environment: Environment, task: Task, teaching: Teaching, seed: int
) -> Demonstration:
    """Play one episode of ALFWorld and record it.

    Everything random follows from `seed` and the task's id.
    """
    rng = episode_rng(task, seed)
    bank = draw_bank(rng, teaching, task.kind)
    goal, now = environment.reset(task)
    demonstrator = Demonstrator(task, now, bank, teaching, rng)
    moments: list[Moment] = []
    while not now.done and len(moments) < teaching.max_turns:
        action = demonstrator.slip()
        taught = None if action else demonstrator.advise()
        if demonstrator.harmed > teaching.patience:
            break
        action = action or taught or ""
        moments.append(
            Moment(now.text, now.choices, demonstrator.skills, action, taught)
        )
        now = environment.step(action)
        demonstrator.follow(action, now)
    return Demonstration(task, goal, tuple(moments), now.text, now.success)


@dataclass(frozen=True)
class Attempt:
    """What the policy did in one episode; its skills follow from the seed.

    Attributes:
        task: the task.
        seed: of the bank (`Attempt.bank`) and of the demonstrator's errors.
        actions: the commands sent, in order.
    """

    task: Task
    seed: int
    actions: tuple[str, ...]


def attempted_bank(task: Task, teaching: Teaching, seed: int) -> SkillBank:
    """Return the bank that an attempt with this seed is made on."""
    return draw_bank(episode_rng(task, seed), teaching, task.kind)


def correct(
    environment: Environment, attempt: Attempt, teaching: Teaching
) -> Demonstration:
    """Say at every turn of an attempt what should have been done there.

    A policy that has learnt from demonstrations alone does not know the way back from
    its own errors (Ross et al. 2011, arXiv 1011.0686: DAgger).
    """
    task = attempt.task
    rng = episode_rng(task, attempt.seed)
    bank = draw_bank(rng, teaching, task.kind)
    goal, now = environment.reset(task)
    demonstrator = Demonstrator(task, now, bank, teaching, rng)
    moments: list[Moment] = []
    for action in attempt.actions:
        taught = demonstrator.advise()
        if demonstrator.harmed > teaching.patience:
            break
        moments.append(
            Moment(now.text, now.choices, demonstrator.skills, action, taught)
        )
        now = environment.step(action)
        demonstrator.follow(action, now)
    return Demonstration(task, goal, tuple(moments), now.text, now.success)


def episode_rng(task: Task, seed: int) -> random.Random:
    """Return what all random choices of one episode are drawn from."""
    return random.Random(f"{seed}/{task.id}")


_HARMFUL = {rule.name for rule in HARMFUL}
_DECISIVE = {  # task kind -> what wins tasks of it
    **dict.fromkeys(PREPARATIONS, "heat-cool-or-clean-first"),
    LOOK: "use-the-lamp",
    TWO: "find-the-second",
}


def draw_bank(rng: random.Random, teaching: Teaching, kind: str) -> SkillBank:
    """Draw the skills of one episode: rules, wordings and triggers at random.

    Args:
        rng: drawn from.
        teaching: how often what is drawn.
        kind: of the task.
    """
    if rng.random() >= teaching.skilled:
        return SkillBank()
    decisive = [rule for rule in HELPFUL if rule.name == _DECISIVE.get(kind)]
    skills: dict[str, Skill] = {}
    for _ in range(rng.randint(1, teaching.max_skills)):
        helpful = rng.random() < teaching.helpful
        relevant = helpful and decisive and rng.random() < teaching.relevant
        rule = rng.choice(decisive if relevant else HELPFUL if helpful else HARMFUL)
        skill = rule.skill(
            rng.randrange(len(rule.wordings)),
            general=helpful and rng.random() < teaching.general,
        )
        skills.setdefault(rule.name, skill)
    return SkillBank(tuple(skills.values()))


def obey(
    skills: Sequence[Skill], state: Tracker, admissible: Sequence[str], expert: str
) -> tuple[str | None, str]:
    """Return the first skill that applies and what it asks for; (None, "") if none."""
    for skill in skills:
        if command := OBEY[skill.name](state, admissible, expert):
            return skill.name, command
    return None, ""


def slip(
    rng: random.Random,
    state: Tracker,
    offered: Iterable[str],
    admissible: Sequence[str],
) -> str | None:
    """Return a command that was possible once, often the last one; None without any."""
    stale = [command for command in offered if command not in admissible]
    if state.last_action in stale and rng.random() < 0.5:
        return state.last_action
    return rng.choice(stale) if stale else None


def situation(state: Tracker, expert: str) -> str | None:
    """Name the habit that the expert's command falls under; None for idle commands."""
    verb = expert.split(" ", 1)[0]
    if verb == "go":
        if not state.holds_target:
            return "search"
        if state.kind == LOOK:
            return "lamp"
        return "deliver" if state.is_ready else "prepare"
    by_verb = {"open": "open", "take": "take", "move": "place", "use": "lamp"}
    by_verb |= dict.fromkeys(("heat", "cool", "clean"), "prepare")
    return by_verb.get(verb)


def err(
    rng: random.Random,
    state: Tracker,
    admissible: Sequence[str],
    expert: str,
    habits: Habits,
) -> str:
    """Return the expert's command or, by habit, a worse one."""
    habit = situation(state, expert)
    if habit is None or rng.random() >= getattr(habits, habit):
        return expert
    if habit == "prepare":  # the typical slip: straight to the goal, unprepared
        place = f"move {state.held} to {state.location}"
        if state.is_goal(state.location) and place in admissible:
            return place
        to_goal = [c for c in admissible if re.fullmatch(rf"go to {state.goal} \d+", c)]
        if to_goal:
            return rng.choice(to_goal)
    wander = [c for c in admissible if c.startswith("go to ") and c != expert]
    idle = [c for c in admissible if c.startswith(("examine", "look", "inventory"))]
    if wander and rng.random() < 0.75:
        return rng.choice(wander)
    return rng.choice(idle or wander)
