"""INSPO: a population of instructions that evolves beside the policy.

Every group draws an instruction by the softmax of their weights; a weight follows how
much better than usual for its type of task the groups fare. At times the worse half is
dropped, the writer makes candidates from failures, and those that do best on a few
training tasks, played for verification only, fill the population up.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from statistics import median
from typing import Any, TypedDict

import numpy as np

from reskill_jax.codec import decode, encode
from reskill_jax.environments.task import Task
from reskill_jax.memories.instruction import Instruction
from reskill_jax.memories.settings import InspoSettings
from reskill_jax.memories.writer import Writer
from reskill_jax.rollout.context import Context
from reskill_jax.rollout.episode import Episode
from reskill_jax.seeds import derive_seed
from reskill_jax.skills.episode_record import EpisodeRecord
from reskill_jax.strategies.base import NOT_PLAYED, Draw, Learned, Plan, Setup, waits


def make(setup: Setup, *, train: bool = True) -> "Inspo":
    """Make the strategy; `train` says whether the policy learns."""
    return Inspo(setup, train)


@dataclass
class Member:
    """An instruction, its weight, and how many groups it has played."""

    text: str
    weight: float = 0.0
    groups: int = 0


@dataclass
class Baseline:
    """The running mean reward of one type of task."""

    mean: float = 0.0
    groups: int = 0

    def advantage(self, reward: float, rate: float) -> float:
        """Return how much better a group was than usual, then learn from it.

        The first group of a type has nothing to be compared with.
        """
        difference = reward - self.mean if self.groups else 0.0
        step = max(rate, 1 / (self.groups + 1))
        self.mean += step * (reward - self.mean)
        self.groups += 1
        return difference


def probabilities(weights: Sequence[float], temperature: float) -> np.ndarray:
    """Return the softmax of weights / temperature."""
    scores = np.asarray(weights, float) / temperature
    likely = np.exp(scores - scores.max())
    return likely / likely.sum()


def survivors(members: Sequence[Member], least_groups: int) -> list[Member]:
    """Drop the worse half of the instructions that have played enough (halving).

    Of one such instruction nothing is dropped.
    """
    tried = [member for member in members if member.groups >= least_groups]
    worse = sorted(tried, key=lambda member: member.weight)[: len(tried) // 2]
    return [member for member in members if all(member is not w for w in worse)]


class _Job(TypedDict):
    current: str
    failures: list[EpisodeRecord]
    count: int


def write(writer: Writer, job: Any) -> list[str]:
    """Have candidates written."""
    held = decode(_Job, job)
    found = writer.instructions(held["current"], held["failures"], held["count"])
    return list(found)


class _State(TypedDict):
    members: list[Member]
    baselines: dict[str, Baseline]
    candidates: list[str]
    failures: list[EpisodeRecord]
    recent: list[Task]
    checked: int
    desk: dict[str, Any]


class Inspo:
    """See the module."""

    def __init__(self, setup: Setup, train: bool):
        self._setup = setup
        self._train = train
        self._settings = InspoSettings(**setup.settings["inspo"])
        self._members = [Member("")]
        self._baselines: dict[str, Baseline] = {}
        self._candidates: list[str] = []  # to be verified at the next step
        self._failures: list[EpisodeRecord] = []  # newest last, by group
        self._recent: list[Task] = []  # buffered training tasks, newest last
        self._checked = 0  # episodes played for verification
        self._desk = setup.make_desk(write, waits(setup, train))

    @property
    def incumbent(self) -> Context:
        """The instruction of the highest weight among those that are well tried."""
        least = self._settings.trusted_groups
        tried = [member for member in self._members if member.groups >= least]
        best = max(tried or self._members[:1], key=lambda member: member.weight)
        return Instruction(best.text)

    def plan(self, step: int, draw: Draw) -> Plan:
        """Draw instructions for the next tasks; verify candidates beside that."""
        tasks = list(draw(self._setup.tasks_per_step))
        size = self._setup.group_size
        arms = self._assign(step, len(tasks))
        checks = self._checks()
        extra = np.full((len(checks) * len(self._candidates), size), NOT_PLAYED)
        for place in range(len(extra)):
            extra[place, 0] = len(self._members) + place // len(checks)
        texts = [member.text for member in self._members] + self._candidates
        train = np.zeros(len(tasks) + len(extra), bool)
        train[: len(tasks)] = self._train
        return Plan(
            tasks=(*tasks, *checks * len(self._candidates)),
            contexts=tuple(map(Instruction, texts)),
            arms=np.concatenate([arms, extra]).astype(np.int32),
            train=train,
        )

    def _assign(self, step: int, groups: int) -> np.ndarray:
        """Return the instruction of every rollout, [groups, G]."""
        size, count = self._setup.group_size, len(self._members)
        chance = np.random.default_rng(derive_seed(self._setup.seed, "inspo", step))
        if self._settings.compare == "same_tasks":
            # As even as it goes; who has one rollout more changes from group to group.
            rows = [np.resize(chance.permutation(count), size) for _ in range(groups)]
            return np.stack(rows) if rows else np.zeros((0, size), int)
        likely = probabilities(
            [member.weight for member in self._members], self._settings.temperature
        )
        drawn = chance.choice(count, size=groups, p=likely)
        return np.repeat(drawn[:, None], size, axis=1)

    def _checks(self) -> list[Task]:
        """Return the tasks that verify candidates: the newest ones, each once."""
        if not self._candidates:
            return []
        return self._recent[-self._settings.checks :]

    def observe(self, step: int, episodes: Sequence[Episode]) -> Learned:
        """Weigh instructions, take verified candidates in, ask for new ones."""
        members = len(self._members)
        groups = [list(g) for _, g in groupby(episodes, lambda e: e.group)]
        trained = [g for g in groups if g[0].group < self._setup.tasks_per_step]
        checks = [e for g in groups[len(trained) :] for e in g]
        for group in trained:
            self._weigh(group)
            self._buffer(step, group)
        metrics = {"memory/written": 0.0}
        events: list[str] = []
        if self._candidates:
            events = self._admit(step, checks, members)
        if step % self._settings.every == 0:
            self._members = survivors(self._members, self._settings.least_groups)
            room = self._settings.population - len(self._members)
            if self._failures and self._desk.idle and room:
                best = max(self._members, key=lambda member: member.weight)
                job = _Job(
                    current=best.text,
                    failures=self._failures[-self._settings.failures :],
                    count=self._settings.candidates,
                )
                self._desk.submit(step, encode(job))
        for _, texts in self._desk.take(step):
            known = {member.text for member in self._members}
            self._candidates = [
                text for text in dict.fromkeys(texts) if text not in known
            ]
            metrics["memory/written"] = float(len(self._candidates))
        empty = Instruction().hash
        shown = [episode for episode in episodes if episode.context != empty]
        metrics |= self._desk.take_metrics() | {
            "memory/items": float(len(self._members)),
            "memory/read": float(len(shown)),
            "inspo/verification_episodes": float(self._checked),
            "inspo/best_weight": max(member.weight for member in self._members),
        }
        status = f"{len(self._members)} instructions"
        return Learned(metrics, events=tuple(events), status=status)

    def _weigh(self, group: Sequence[Episode]) -> None:
        """Let weights follow the group: w <- (1 - rate) w + rate advantage.

        Where instructions share a group, each is compared with the others in it: same
        task, same policy.
        """
        rate = self._settings.rate
        rewards: dict[int, list[float]] = {}
        for episode in group:
            rewards.setdefault(episode.arm, []).append(float(episode.success))
        if self._settings.compare == "same_tasks":
            for arm, own in sorted(rewards.items()):
                others = [r for k, rs in rewards.items() if k != arm for r in rs]
                gain = float(np.mean(own) - np.mean(others)) if others else 0.0
                self._move(arm, gain, rate)
            return
        baseline = self._baselines.setdefault(group[0].task.kind, Baseline())
        for arm, own in rewards.items():
            self._move(arm, baseline.advantage(float(np.mean(own)), rate), rate)

    def _move(self, arm: int, advantage: float, rate: float) -> None:
        member = self._members[arm]
        member.weight = (1 - rate) * member.weight + rate * advantage
        member.groups += 1

    def _buffer(self, step: int, group: Sequence[Episode]) -> None:
        """Keep the task for verification, and a failure for the writer."""
        task = group[0].task
        recent = [known for known in self._recent if known.id != task.id]
        self._recent = [*recent, task][-self._settings.checks :]
        failed = [episode for episode in group if not episode.success]
        if failed:
            kept = 4 * self._settings.failures
            self._failures = [*self._failures, failed[0].record(step)][-kept:]

    def _admit(self, step: int, checks: Sequence[Episode], members: int) -> list[str]:
        """Take the candidates in that did best, as far as there is room."""
        self._checked += len(checks)
        played, won = Counter[int](), Counter[int]()
        for episode in checks:
            played[episode.arm] += 1
            won[episode.arm] += episode.success
        rates = {
            text: won[members + k] / played[members + k]
            for k, text in enumerate(self._candidates)
            if played[members + k]
        }
        room = self._settings.population - len(self._members)
        # What is new begins in the middle: neither favoured nor out of play.
        weight = median(member.weight for member in self._members)
        chosen = sorted(rates, key=lambda text: -rates[text])[: max(room, 0)]
        self._members += [Member(text, weight) for text in chosen]
        self._candidates = []
        return [
            f"step {step}: a new instruction, {rates[text]:.0%} of its checks won: "
            f"{text:.60}"
            for text in chosen
        ]

    def state(self) -> dict[str, Any]:
        """Return everything that changes."""
        return encode(
            _State(
                members=self._members,
                baselines=self._baselines,
                candidates=self._candidates,
                failures=self._failures,
                recent=self._recent,
                checked=self._checked,
                desk=self._desk.state(),
            )
        )

    def restore(self, state: dict[str, Any]) -> None:
        """Go back to a state."""
        held = decode(_State, state, name="strategy")
        self._members, self._baselines = held["members"], held["baselines"]
        self._candidates, self._failures = held["candidates"], held["failures"]
        self._recent, self._checked = held["recent"], held["checked"]
        self._desk.restore(held["desk"])
