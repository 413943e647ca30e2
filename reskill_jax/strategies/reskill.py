"""ReSkill: the library evolves inside the loop, and every change must pass a trial.

Episodes fill the reservoir; when no trial is running, the creator is asked for a
proposal; a proposal that passes verification becomes the candidate arm of a trial; the
trial's decision makes the candidate the accepted bank or drops it (paper, Algorithm 1).
Several candidates may be tried at once: then the creator is asked again, as if those
before had been rejected, until there are enough or it knows no more.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypedDict

import jax
import numpy as np

from reskill_jax.codec import decode, encode
from reskill_jax.creator.proposal import (
    Creator,
    Evidence,
    PastTrial,
    Pending,
    Proposal,
)
from reskill_jax.creator.reservoir import Reservoir
from reskill_jax.creator.verify import Limits, Rejected, verify
from reskill_jax.rollout.context import BankContext, Context
from reskill_jax.rollout.episode import Episode
from reskill_jax.seeds import derive_seed
from reskill_jax.skills.contrast import Contrast
from reskill_jax.skills.episode_record import EpisodeRecord
from reskill_jax.skills.skill import SkillBank, changed_triggers, could_fire
from reskill_jax.strategies.base import Draw, Learned, Plan, Setup, Strategy
from reskill_jax.strategies.course import Course, Figures, figures, summary
from reskill_jax.strategies.lifecycle import idle_episodes, lifecycle
from reskill_jax.strategies.reservoir_check import check_reservoir
from reskill_jax.strategies.skill_effects import SkillEffects
from reskill_jax.strategies.staged import Order, Staged
from reskill_jax.trials.bounds import make_config
from reskill_jax.trials.discount import MemoryEstimate
from reskill_jax.trials.shape import Shape
from reskill_jax.trials.trial import Trial
from reskill_jax.trials.trial_config import Decision, TrialConfig

_ALL_EPISODES = 1e9
_PACE = 4  # steps that a trial takes on average


def make(
    setup: Setup,
    *,
    trial: Mapping[str, Any] | None = None,
    auto_accept: bool = False,
    analyse: bool = True,
    stages: Order | None = None,
) -> Strategy:
    """Make the strategy.

    Args:
        setup: of the run.
        trial: settings of trials that an ablation changes.
        auto_accept: ablation, every proposal goes live untested.
        analyse: ablation, whether the creator analyses episodes.
        stages: ablation, policy and skills do not learn at the same time.

    Raises:
        ValueError: `settings.bank` is not a directory of skills, or there are too few
            tasks for `settings.reservoir_min` records.
    """
    settings = setup.settings
    reservoir = Reservoir(settings["reservoir_size"])
    check_reservoir(reservoir, setup)
    frozen = stages is not None or setup.frozen
    changes = {**(trial or {}), "frozen_policy": frozen}
    if setup.frozen:  # nothing drifts: all that is known of the incumbent stays true
        changes["carry_over"] = _ALL_EPISODES
    trial_config = TrialConfig()  # an ablation without trials needs no other
    if not auto_accept:
        trial_config = make_config(setup.trial, _shape(setup), **changes)
    strategy = ReSkill(
        setup.make_creator(analyse),
        trial_config,
        bank=setup.load_bank(),
        bank_problem=setup.bank_problem,
        max_skills=settings["max_skills"],
        tasks_per_step=setup.tasks_per_step,
        group_size=setup.group_size,
        reservoir=reservoir,
        reservoir_min=settings["reservoir_min"],
        seed=setup.seed,
        candidates=settings["candidates"],
        auto_accept=auto_accept,
    )
    if stages is None:
        return strategy
    return Staged(strategy, setup, first=setup.num_steps // 2, order=stages)


def _shape(setup: Setup) -> Shape:
    candidates = setup.settings["candidates"]
    return Shape(setup.tasks_per_step, setup.group_size, candidates)


class _State(TypedDict):
    bank: SkillBank
    candidates: list[tuple[Proposal, SkillBank]]
    trial: Trial | None
    memory: MemoryEstimate
    evidence: tuple[float, float] | None
    history: list[PastTrial]
    reservoir: dict[str, Any]
    creator: dict[str, Any]
    trial_start: int
    path: list[tuple[int, list[Figures]]]
    wait_until: int
    idle: int
    effects: SkillEffects


class ReSkill:
    """The paper's method and, by switches, its ablations."""

    def __init__(
        self,
        creator: Creator,
        trial_config: TrialConfig,
        *,
        bank: SkillBank,
        bank_problem: Callable[[SkillBank], str] = lambda bank: "",
        max_skills: int,
        tasks_per_step: int,
        group_size: int,
        reservoir: Reservoir,
        reservoir_min: int,
        seed: int,
        candidates: int = 1,
        auto_accept: bool = False,
    ):
        """Start with a bank and no trial.

        Args:
            creator: makes proposals.
            trial_config: how they are tried.
            bank: the bank to start from.
            bank_problem: says why a bank has no room in prompts; "" where it has.
            max_skills: most skills in a bank.
            tasks_per_step: groups of a step.
            group_size: rollouts of a group.
            reservoir: where episodes are kept for the creator.
            reservoir_min: episodes in it before the creator is asked at all.
            seed: for assignments, and for creators that sample.
            candidates: how many proposals are tried at once, at most.
            auto_accept: take every proposal untested (ablation).
        """
        self._creator = creator
        self._trial_config = trial_config
        self._bank = bank
        self._bank_problem = bank_problem
        self._max_skills = max_skills
        self._tasks_per_step = tasks_per_step
        self._group_size = group_size
        self._reservoir = reservoir
        self._reservoir_min = reservoir_min
        self._seed = seed
        self._max_candidates = candidates
        self._auto_accept = auto_accept
        self._trial: Trial | None = None
        self._candidates: list[tuple[Proposal, SkillBank]] = []
        self._memory = MemoryEstimate()
        self._evidence: tuple[float, float] | None = None  # of the accepted bank
        self._history: list[PastTrial] = []
        self._events: list[str] = []
        self._decisions: list[dict[str, Any]] = []
        self._course = Course()  # of the trial
        self._wait_until = 0  # step before which the creator is not asked again
        self._idle = 0  # times in a row that it had nothing to propose
        self._effects = SkillEffects()

    @property
    def incumbent(self) -> Context:
        """The accepted bank."""
        return BankContext(self._bank)

    def plan(self, step: int, draw: Draw) -> Plan:
        """Play the next tasks; a trial splits every group between its arms."""
        tasks = tuple(draw(self._tasks_per_step))
        if self._trial is None:
            return Plan.alike(tasks, self.incumbent, self._group_size)
        key = jax.random.key(derive_seed(self._seed, "assign", step))
        return Plan(
            tasks=tasks,
            contexts=tuple(BankContext(bank) for bank in self._banks()),
            arms=self._trial.assign(key, len(tasks), self._group_size),
            train=np.ones(len(tasks), bool),
            effects=self._trial.expected_effects(),
        )

    def observe(self, step: int, episodes: Sequence[Episode]) -> Learned:
        """Remember the episodes, judge the candidates, ask for the next ones."""
        self._events, self._decisions = [], []
        self._reservoir.add(episode.record(step) for episode in episodes)
        self._events += self._effects.add(step, episodes, self._banks())
        turns = [turn for episode in episodes for turn in episode.turns]
        metrics: dict[str, float] = {}
        if turns:
            shown = [len(turn.active_skills) for turn in turns]
            metrics["skills/active_per_turn"] = float(np.mean(shown))
        metrics |= lifecycle(self._bank, episodes)
        # All groups of a step may have failed: then it is none of a trial's steps.
        if self._trial is not None and episodes:
            metrics |= self._judge(step, self._trial, episodes)
        if self._trial is None:
            metrics |= self._next_trial(step)
        for key, value in self._creator.take_metrics().items():
            metrics[key] = metrics.get(key, 0.0) + value
        records = self._reservoir.records(step)
        metrics |= {
            "reservoir/records": float(len(records)),
            "skills/bank_size": float(len(self._bank.skills)),
            "trial/num_decided": float(len(self._history)),
        }
        return Learned(
            metrics=metrics,
            events=tuple(self._events),
            decisions=tuple(self._decisions),
            status=self._status(len(records)),
            on_trial=self._on_trial(),
        )

    def _on_trial(self) -> tuple[dict[str, Any], ...]:
        """Describe the candidates of the running trial, for the log."""
        return tuple(
            {
                "start": self._course.start,
                "proposal": encode(proposal),
                "candidate": bank.hash,
            }
            for proposal, bank in (self._candidates if self._trial else ())
        )

    def _banks(self) -> tuple[SkillBank, ...]:
        """Return the accepted bank and, during a trial, the candidates."""
        candidates = self._candidates if self._trial else ()
        return (self._bank, *(bank for _, bank in candidates))

    def _judge(
        self, step: int, trial: Trial, episodes: Sequence[Episode]
    ) -> dict[str, float]:
        """Give a step's episodes to the trial and carry out its decision, if any."""
        triggers = changed_triggers(self._banks())
        trial.observe(
            [episode.arm for episode in episodes],
            [episode.success for episode in episodes],
            [episode.group for episode in episodes],
            [could_fire(triggers, e.actions, e.goal) for e in episodes],
            [episode.task.kind for episode in episodes],
        )
        found = trial.contrasts()
        self._course.add(step, found)
        best = figures(max(found, key=lambda contrast: contrast.probability))
        metrics = trial.metrics() | {
            f"trial/{name}": value for name, value in best.items() if value is not None
        }
        if decision := trial.decide():
            metrics |= {
                "trial/effect": decision.contrast.effect,
                "trial/accepted": float(decision.accepted),
            }
            self._memory.add(trial)
            self._evidence = trial.evidence(decision.arm)
            self._settle(step, decision.arm, decision.contrasts, decision)
        return metrics

    def _settle(
        self,
        step: int,
        arm: int,
        contrasts: Sequence[Contrast | None],
        decision: Decision | None = None,
        reason: str = "untested",
    ) -> None:
        """End the trial: bank `arm` goes on, the others are forgotten.

        Without a decision nothing was measured; `reason` says why.
        """
        banks = (self._bank, *(bank for _, bank in self._candidates))
        types = self._trial.types() if self._trial is not None else ()
        for k, contrast in enumerate(contrasts, start=1):
            proposal = self._candidates[k - 1][0]
            past = PastTrial.judged(
                step,
                proposal,
                (banks[0], banks[k]),
                k == arm,
                contrast,
                not_chosen=decision is not None and k not in (arm, *decision.rejected),
            )
            self._history.append(past)
            self._decisions.append(
                encode(past)
                | self._course.describe(k, decision)
                | self._effects.describe(banks[0], banks[k], k)
                | ({"types": types[k - 1]} if types else {})
            )
            shown = f"effect {contrast.effect:+.1%}" if contrast else reason
            if decision and decision.reason == "limit" and past.verdict == "rejected":
                shown += ", not sure enough at the last step of its trial"
            if decision and decision.reason == "harm":
                shown += ", a type of task is harmed"
            self._events.append(
                f"step {step}: {past.verdict} ({shown}) {summary(proposal)}"
            )
        self._bank, self._trial, self._candidates = banks[arm], None, []

    def _next_trial(self, step: int) -> dict[str, float]:
        """Ask the creator and, once there is enough to try, begin a trial."""
        records = self._reservoir.records(step)
        if len(records) < self._reservoir_min or step < self._wait_until:
            return {}
        metrics: dict[str, float] = defaultdict(float)
        while len(self._candidates) < self._max_candidates:
            evidence = self._what_is_known(step, records)
            proposal = self._creator.propose(evidence)
            if isinstance(proposal, Pending):
                return metrics
            if proposal is None:
                metrics["creator/no_proposal"] += 1
                break
            verdict = verify(proposal, evidence, Limits(), self._bank_problem)
            if isinstance(verdict, Rejected):
                for problem in verdict.problems:
                    metrics[f"creator/rejected/{problem.reason}"] += 1
                    self._events.append(f"step {step}: no trial: {problem.detail}")
                break
            metrics["creator/proposals"] += 1
            tallies = self._reservoir.tallies(step)
            if idle := idle_episodes(self._bank, verdict.candidate, tallies):
                # Both arms would see the same prompts: a trial would toss a coin.
                if self._candidates:
                    break  # it was written for the bank of today; later
                self._accept_idle_delete(step, proposal, verdict.candidate, idle)
                continue
            self._candidates.append((proposal, verdict.candidate))
            self._events.append(f"step {step}: on trial {summary(proposal)}")
            if self._auto_accept:
                break
        if self._candidates:
            self._idle = 0
            self._begin(step)
        else:  # ask again later, and later still if it goes on: evidence changes slowly
            self._wait_until = step + min(2**self._idle, 8)
            self._idle += 1
        return metrics

    def _accept_idle_delete(
        self, step: int, proposal: Proposal, candidate: SkillBank, episodes: int
    ) -> None:
        """Accept, untested, a bundle that only drops skills which never fire.

        It is no trial: the estimate of M and the incumbent's evidence stay as they are.
        """
        self._course = Course(step)
        self._candidates = [(proposal, candidate)]
        reason = f"shown in none of {episodes} episodes"
        self._settle(step, 1, [None], reason=reason)

    def _what_is_known(self, step: int, records: tuple[EpisodeRecord, ...]) -> Evidence:
        """Gather it for the creator; it shall not propose twice what is on trial."""
        on_trial = [
            PastTrial.judged(step, proposal, (self._bank, bank), accepted=False)
            for proposal, bank in self._candidates
        ]
        return Evidence(
            bank=self._bank,
            records=records,
            tallies=self._reservoir.tallies(step),
            history=(*self._history, *on_trial),
            effects=self._effects.of(self._bank.skills),
            max_skills=self._max_skills,
            step=step,
            seed=self._seed,
        )

    def _begin(self, step: int) -> None:
        """Put the candidates on trial, or take the one there is (ablation)."""
        self._course = Course(step)
        if self._auto_accept:
            self._settle(step, 1, [None])
            # At the pace of trials, so that strategies see as many proposals.
            self._wait_until = step + _PACE
        else:
            self._trial = Trial.start(
                self._trial_config,
                (self._bank, *(bank for _, bank in self._candidates)),
                memory=self._memory.value(self._trial_config),
                evidence=self._evidence,
            )

    def _status(self, records: int) -> str:
        """Tell the bank's size and the state of the trial, or what it waits for."""
        skills = f"{len(self._bank.skills)} skills"
        if self._trial is None:
            if records < self._reservoir_min:
                return f"{skills}, {records} of {self._reservoir_min} records"
            return skills
        bundles = " | ".join(summary(proposal) for proposal, _ in self._candidates)
        return f"{skills}, trial of {bundles}"

    def state(self) -> dict[str, Any]:
        """Return everything that a resumed run needs to go on as if never stopped."""
        return encode(
            _State(
                bank=self._bank,
                candidates=self._candidates,
                trial=self._trial,
                memory=self._memory,
                evidence=self._evidence,
                history=self._history,
                reservoir=self._reservoir.state(),
                creator=self._creator.state(),
                trial_start=self._course.start,
                path=self._course.path,
                wait_until=self._wait_until,
                idle=self._idle,
                effects=self._effects,
            )
        )

    def restore(self, state: dict[str, Any]) -> None:
        """Go back to a state.

        Raises:
            CodecError: a part of it is missing or of another type.
        """
        held = decode(_State, state, name="strategy")
        self._bank = held["bank"]
        self._candidates = held["candidates"]
        self._trial = held["trial"]
        self._memory = held["memory"]
        self._evidence = held["evidence"]
        self._history = held["history"]
        self._reservoir.restore(held["reservoir"])
        self._creator.restore(held["creator"])
        self._course = Course(held["trial_start"], held["path"])
        self._wait_until = held["wait_until"]
        self._idle = held["idle"]
        self._effects = held["effects"]
