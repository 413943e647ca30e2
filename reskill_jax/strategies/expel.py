"""ExpeL: gather experience, extract rules from it, then use both, frozen.

The policy is frozen throughout. First, training tasks are attempted several times with
reflections, for a stated number of steps; each task has as many parallel tries as GRPO
has rollouts, so that the budget of episodes is never above GRPO's. Then pairs of a
failed and a successful episode of one task, and batches of successes, edit a list of
rules. From then on nothing changes: all rules, and the solved tasks that are most
similar, open every episode.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, TypedDict

import numpy as np

from reskill_jax.codec import decode, encode
from reskill_jax.memories.insights import Insights
from reskill_jax.memories.reflections import Reflections
from reskill_jax.memories.rules import VotedRule, apply_edits
from reskill_jax.memories.settings import ExpelSettings
from reskill_jax.memories.writer import Writer
from reskill_jax.rollout.context import Context
from reskill_jax.rollout.episode import Episode
from reskill_jax.skills.episode_record import EpisodeRecord
from reskill_jax.strategies.attempts import Attempts
from reskill_jax.strategies.base import Draw, Learned, Plan, Setup
from reskill_jax.strategies.reflexion import failures, reflect


def make(setup: Setup) -> "Expel":
    """Make the strategy."""
    return Expel(setup)


class _Extraction(TypedDict):
    pairs: list[tuple[EpisodeRecord, EpisodeRecord]]
    chunks: list[tuple[EpisodeRecord, ...]]
    max_rules: int


class _Extracted(TypedDict):
    rules: tuple[VotedRule, ...]
    unused: int


def extract(writer: Writer, job: Any) -> Any:
    """Edit the list of rules, call by call: pairs first, then chunks of successes."""
    held = decode(_Extraction, job)
    rules: tuple[VotedRule, ...] = ()
    unused = 0
    calls = [((won,), (lost,)) for won, lost in held["pairs"]]
    for won, lost in [*calls, *((chunk, ()) for chunk in held["chunks"])]:
        edits = writer.edits([rule.text for rule in rules], won, lost)
        rules, refused = apply_edits(rules, edits, held["max_rules"])
        unused += refused
    return encode(_Extracted(rules=rules, unused=unused))


def _work(writer: Writer, job: Any) -> Any:
    return (extract if "pairs" in job else reflect)(
        writer, job if "pairs" in job else job["reflect"]
    )


class _State(TypedDict):
    gathered: int
    episodes: int
    attempts: Attempts
    reflections: Any
    won: dict[str, EpisodeRecord]
    lost: dict[str, EpisodeRecord]
    insights: Any
    desk: dict[str, Any]


class Expel:
    """See the module."""

    def __init__(self, setup: Setup):
        self._setup = setup
        settings = self._settings = ExpelSettings(**setup.settings["expel"])
        self._attempts = Attempts(settings.attempts, 1)
        self._reflections = Reflections(shown=settings.shown)
        self._gathered = 0  # steps
        self._episodes = 0  # played while gathering
        # By task: the shortest success, and the newest failure.
        self._won: dict[str, EpisodeRecord] = {}
        self._lost: dict[str, EpisodeRecord] = {}
        self._insights = Insights.from_json(
            Insights(settings).to_json(), setup.resources
        )
        self._desk = setup.make_desk(_work, True)

    @property
    def incumbent(self) -> Context:
        """Rules and examples; none of either before they are extracted."""
        return self._insights

    def plan(self, step: int, draw: Draw) -> Plan:
        """Attempt tasks while gathering; afterwards play the next ones, frozen."""
        group = self._setup.group_size
        if not self._gathering:
            tasks = draw(self._setup.tasks_per_step)
            return Plan.alike(tasks, self._insights, group, train=False)
        if self._attempts.over:
            self._attempts.begin(draw(self._setup.tasks_per_step))
        tasks = [self._attempts.tasks[place] for place in self._attempts.pending()]
        return Plan.alike(tasks, self._reflections, group, train=False)

    def observe(self, step: int, episodes: Sequence[Episode]) -> Learned:
        """Remember and reflect, and extract at the end; then learn nothing more."""
        if not self._gathering:
            read = sum(bool(self._insights.rules) for _ in episodes)
            now = {"memory/read": float(read), "memory/written": 0.0}
            self._gathered += not self._insights.rules
            if self._must_extract:
                now["memory/unused_edits"] = float(self._extract(step))
                now |= self._desk.take_metrics()
            return Learned(self._sizes() | now, status=self._status())
        for episode in episodes:
            self._keep(episode.record(step))
        self._episodes += len(episodes)
        self._gathered += 1
        solved = {e.task.id for e in episodes if e.success}
        self._attempts.record(lambda chain, task: task in solved)
        before = len(self._reflections.items)
        read = sum(bool(self._reflections.about(e.task)) for e in episodes)
        if self._attempts.made < self._attempts.most:
            # One reflection per task and attempt, on the first try that failed.
            first = {e.task.id: e for e in reversed(episodes)}
            left = [e for task, e in first.items() if task not in solved]
            job = failures(self._reflections, left[::-1], step)
            self._desk.submit(step, {"reflect": job})
            tasks = {e.task.id: e.task for e in left}
            for _, written in self._desk.take(step):
                for task, text in written:
                    self._reflections = self._reflections.plus(tasks[task], text)
        written = len(self._reflections.items) - before
        metrics = {"memory/written": float(written), "memory/read": float(read)}
        if self._must_extract:
            metrics["memory/unused_edits"] = float(self._extract(step))
        metrics |= self._desk.take_metrics() | self._sizes()
        return Learned(metrics, status=self._status())

    @property
    def _gathering(self) -> bool:
        return self._gathered < self._settings.gather_steps

    @property
    def _must_extract(self) -> bool:
        """Whether rules are to be written: when gathering ends.

        While there are none, again 1, 3, 7, .. steps later: a model may be silent.
        """
        late = self._gathered - self._settings.gather_steps
        missing = bool(self._won or self._lost) and not self._insights.rules
        return missing and late >= 0 and late & (late + 1) == 0

    def _keep(self, record: EpisodeRecord) -> None:
        if not record.success:
            self._lost[record.task] = record
            return
        known = self._won.get(record.task)
        if known is None or len(record.actions) < len(known.actions):
            self._won[record.task] = record

    def _extract(self, step: int) -> int:
        """Have the rules written, with nothing else left to do meanwhile.

        Returns:
            How many edits could not be used.
        """
        both = [task for task in self._won if task in self._lost]
        won = list(self._won.values())
        order = np.random.default_rng((self._setup.seed, 0xE1)).permutation(len(won))
        size = self._settings.chunk
        mixed = [won[place] for place in order]
        job = _Extraction(
            pairs=[(self._won[task], self._lost[task]) for task in both],
            chunks=[tuple(mixed[k : k + size]) for k in range(0, len(mixed), size)],
            max_rules=self._settings.max_rules,
        )
        self._desk.submit(step, encode(job))
        for _, result in self._desk.take(step):
            found = decode(_Extracted, result)
            self._insights = replace(
                self._insights, rules=found["rules"], solved=tuple(won)
            )
            return found["unused"]
        return 0

    def _sizes(self) -> dict[str, float]:
        insights = self._insights
        items = len(insights.rules) + len(insights.solved)
        return {
            "memory/items": float(items),
            "memory/rules": float(len(insights.rules)),
            "memory/gathered_episodes": float(self._episodes),
        }

    def _status(self) -> str:
        if self._gathering:
            return f"gathering {self._gathered} of {self._settings.gather_steps}"
        return f"{len(self._insights.rules)} rules"

    def state(self) -> dict[str, Any]:
        """Return everything that changes."""
        return encode(
            _State(
                gathered=self._gathered,
                episodes=self._episodes,
                attempts=self._attempts,
                reflections=self._reflections.to_json(),
                won=self._won,
                lost=self._lost,
                insights=self._insights.to_json(),
                desk=self._desk.state(),
            )
        )

    def restore(self, state: dict[str, Any]) -> None:
        """Go back to a state."""
        held = decode(_State, state, name="strategy")
        self._gathered, self._episodes = held["gathered"], held["episodes"]
        self._attempts = held["attempts"]
        self._reflections = Reflections.from_json(held["reflections"], {})
        self._won, self._lost = held["won"], held["lost"]
        self._insights = Insights.from_json(held["insights"], self._setup.resources)
        self._desk.restore(held["desk"])
