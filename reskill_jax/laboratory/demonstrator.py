"""Demonstrations by an expert that errs on purpose and obeys the skills it is shown.

`demonstrate` and `correct` are for any world with a `Script`; the rest is ALFWorld's.

Cloned from such demonstrations, a small policy reads its skills and leaves room for
improvement: without a skill it repeats the demonstrator's mistakes; a skill that names
the right (or the wrong) thing to do is followed.
"""

import random
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from reskill_jax.environments.alfworld.rules import HARMFUL, HELPFUL
from reskill_jax.environments.alfworld.tracker import (
    LOOK,
    PREPARATIONS,
    TWO,
    Tracker,
)
from reskill_jax.environments.protocol import Environment, Observation, Task
from reskill_jax.laboratory.remarks import REMARK, draw_remark
from reskill_jax.laboratory.rule_policy import OBEY
from reskill_jax.rollout.demonstration import DemonstratedTurn, Demonstration
from reskill_jax.skills.skill import Skill, SkillBank


@dataclass(frozen=True)
class MistakeRates:
    """How often the demonstrator deviates from its expert, by what the expert does."""

    open: float = 0.5  # opening what is closed
    take: float = 0.1  # taking what is wanted
    search: float = 0.1  # going to a place that the expert picked
    prepare: float = 0.85  # heating, cooling, cleaning before placing
    deliver: float = 0.05  # carrying the finished object to the goal
    place: float = 0.05  # putting it down there
    lamp: float = 0.6  # using the lamp


@dataclass(frozen=True)
class DemonstrationSettings:
    """How demonstrations are made: their skills, their mistakes, their length.

    Attributes:
        max_turns: an episode without success ends after this many turns.
        skilled: share of episodes whose prompts show skills.
        max_skills: such an episode has 1 to this many skills.
        general: share of skills shown at every turn, instead of by their own trigger.
        helpful: probability that a skill is drawn from the helpful rules.
        relevant: probability that a helpful skill is drawn from those that decide tasks
            of the episode's kind. Drawn from all rules, these would rarely apply.
        patience: an episode ends when harmful skills were obeyed more often than this.
        remarked: probability that a remark, which says nothing, is shown, too.
        slips: share of turns lost on an inadmissible command. It is read, not imitated:
            the policy learns what to do after "Nothing happens."
        habits: mistakes where no skill applies; of a world's own type.
    """

    max_turns: int = 16
    skilled: float = 0.7
    max_skills: int = 3
    general: float = 0.4
    helpful: float = 0.75
    relevant: float = 0.5
    patience: int = 6
    remarked: float = 0.0
    slips: float = 0.1
    habits: Any = MistakeRates()


class Script(Protocol):
    """What advises turn by turn in one episode of a world; `Demonstrator` is one.

    Attributes:
        harmful_actions: how often a harmful skill was obeyed so far.
    """

    harmful_actions: int

    def __init__(
        self,
        task: Task,
        first: Observation,
        bank: SkillBank,
        teaching: DemonstrationSettings,
        rng: random.Random,
        goal: str = "",
    ):
        """Begin an episode, which it need not be playing itself."""

    @property
    def skills(self) -> tuple[Skill, ...]:
        """The skills shown at this turn."""
        ...

    def advise(self) -> str:
        """Return the command to imitate."""
        ...

    def slip(self) -> str | None:
        """Return a command that leads to nothing, as often as the settings say."""
        ...

    def follow(self, action: str, now: Observation) -> None:
        """Take in this turn's action, whoever chose it, and the next observation."""
        ...

    @staticmethod
    def draw_bank(
        rng: random.Random, teaching: DemonstrationSettings, kind: str
    ) -> SkillBank:
        """Draw the skills of one episode: rules, wordings and triggers."""
        ...


class Demonstrator:
    """Advises turn by turn in one episode, which it need not be playing itself.

    Attributes:
        harmful_actions: how often a harmful skill was obeyed so far.
    """

    def __init__(
        self,
        task: Task,
        first: Observation,
        bank: SkillBank,
        teaching: DemonstrationSettings,
        rng: random.Random,
        goal: str = "",
    ):
        del goal  # the tracker reads it in the task
        # Its module imports alfworld, which is needed for demonstrations only.
        from reskill_jax.environments.alfworld.expert import Expert  # noqa: PLC0415

        self.harmful_actions = 0
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
        """Return what a shown skill asks for; else the expert's choice or a mistake."""
        admissible = self._now.choices
        advice = self._expert.propose() or "look"
        skill, action = obey(self.skills, self._state, admissible, advice)
        self.harmful_actions += skill in _HARMFUL
        if skill is not None:
            return action
        return err(self._rng, self._state, admissible, advice, self._teaching.habits)

    def slip(self) -> str | None:
        """Return an inadmissible command, as often as the settings say; else None."""
        if self._rng.random() >= self._teaching.slips:
            return None
        return slip(self._rng, self._state, self._offered, self._now.choices)

    def follow(self, action: str, now: Observation) -> None:
        """Take in this turn's action, whoever chose it, and the next observation."""
        self._state.advance(action, now.text)
        self._expert.observe(now)
        self._previous, self._now = action, now
        self._offered |= dict.fromkeys(now.choices)

    @staticmethod
    def draw_bank(
        rng: random.Random, teaching: DemonstrationSettings, kind: str
    ) -> SkillBank:
        """Draw the skills of one episode; see the function of this name."""
        return draw_bank(rng, teaching, kind)


def demonstrate(
    environment: Environment,
    task: Task,
    teaching: DemonstrationSettings,
    seed: int,
    script: type[Script] = Demonstrator,
) -> Demonstration:
    """Play one episode and record it.

    It is a function of the arguments: all random choices depend on `seed` and the id of
    the task.
    """
    rng = episode_rng(task, seed)
    bank = script.draw_bank(rng, teaching, task.kind)
    goal, now = environment.reset(task)
    demonstrator = script(task, now, bank, teaching, rng, goal)
    turns: list[DemonstratedTurn] = []
    while not now.done and len(turns) < teaching.max_turns:
        action = demonstrator.slip()
        taught = None if action else demonstrator.advise()
        if demonstrator.harmful_actions > teaching.patience:
            break
        action = action or taught or ""
        turns.append(_turn(now, demonstrator.skills, action, taught))
        now = environment.step(action)
        demonstrator.follow(action, now)
    return Demonstration(task, goal, tuple(turns), now.text, now.success)


def _turn(
    now: Observation, skills: tuple[Skill, ...], action: str, taught: str | None
) -> DemonstratedTurn:
    """Record a turn: what was done there, and the command to imitate, if any."""
    response = None if taught is None else f"<action>{taught}</action>"
    seen = Observation(now.text, now.choices)
    return DemonstratedTurn(seen, action, response, skills)


@dataclass(frozen=True)
class PlayedEpisode:
    """An episode that the policy played, to be corrected.

    Attributes:
        task: the task.
        seed: of its skills (see `bank_of_episode`) and of the demonstrator's mistakes.
        actions: the commands that were sent, in order.
    """

    task: Task
    seed: int
    actions: tuple[str, ...]


def bank_of_episode(
    task: Task,
    teaching: DemonstrationSettings,
    seed: int,
    script: type[Script] = Demonstrator,
) -> SkillBank:
    """Return the skills that the policy is shown in an episode with this seed."""
    return script.draw_bank(episode_rng(task, seed), teaching, task.kind)


def correct(
    environment: Environment,
    played: PlayedEpisode,
    teaching: DemonstrationSettings,
    script: type[Script] = Demonstrator,
) -> Demonstration:
    """Give every turn of an episode that the policy played the action to imitate.

    A policy that has learnt from demonstrations alone does not recover from its own
    mistakes (DAgger, Ross et al. 2011, arXiv 1011.0686).
    """
    task = played.task
    rng = episode_rng(task, played.seed)
    bank = script.draw_bank(rng, teaching, task.kind)
    goal, now = environment.reset(task)
    demonstrator = script(task, now, bank, teaching, rng, goal)
    turns: list[DemonstratedTurn] = []
    for action in played.actions:
        taught = demonstrator.advise()
        if demonstrator.harmful_actions > teaching.patience:
            break
        turns.append(_turn(now, demonstrator.skills, action, taught))
        now = environment.step(action)
        demonstrator.follow(action, now)
    return Demonstration(task, goal, tuple(turns), now.text, now.success)


def episode_rng(task: Task, seed: int) -> random.Random:
    """Return the generator of all random choices in one episode."""
    return random.Random(f"{seed}/{task.id}")


_HARMFUL = {rule.name for rule in HARMFUL}
_DECISIVE = {  # task kind -> the rule without which such tasks are hardly solved
    **dict.fromkeys(PREPARATIONS, "heat-cool-or-clean-first"),
    LOOK: "use-the-lamp",
    TWO: "find-the-second",
}


def draw_bank(
    rng: random.Random, teaching: DemonstrationSettings, kind: str
) -> SkillBank:
    """Draw the skills of one episode: rules, wordings and triggers.

    Args:
        rng: generator that is drawn from.
        teaching: probabilities of what is drawn.
        kind: of the task.
    """
    skills = _draw_rules(rng, teaching, kind)
    # A probability of 0 draws nothing: demonstrations without remarks stay the same.
    if teaching.remarked and rng.random() < teaching.remarked:
        skills.insert(rng.randint(0, len(skills)), draw_remark(rng))
    return SkillBank(tuple(skills))


def _draw_rules(
    rng: random.Random, teaching: DemonstrationSettings, kind: str
) -> list[Skill]:
    """Draw the rules of one episode; their names differ."""
    if rng.random() >= teaching.skilled:
        return []
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
    return list(skills.values())


def obey(
    skills: Sequence[Skill], state: Tracker, admissible: Sequence[str], expert: str
) -> tuple[str | None, str]:
    """Return the first skill that applies and what it asks for; else (None, "")."""
    for skill in skills:
        if skill.name == REMARK:
            continue
        if command := OBEY[skill.name](state, admissible, expert):
            return skill.name, command
    return None, ""


def slip(
    rng: random.Random,
    state: Tracker,
    offered: Iterable[str],
    admissible: Sequence[str],
) -> str | None:
    """Return a command that was possible earlier and is not now, or None."""
    stale = [command for command in offered if command not in admissible]
    if state.last_action in stale and rng.random() < 0.5:
        return state.last_action
    return rng.choice(stale) if stale else None


def situation(state: Tracker, expert: str) -> str | None:
    """Return the field of `MistakeRates` for the expert's command, or None."""
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
    habits: MistakeRates,
) -> str:
    """Return the expert's command or, as often as `habits` says, a worse one."""
    habit = situation(state, expert)
    if habit is None or rng.random() >= getattr(habits, habit):
        return expert
    if habit == "prepare":  # the typical mistake: to the goal without preparation
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
