"""A creator without a language model: from failed assertions to skills, by rule.

It is a pure function of the evidence. In this order it proposes

1. to drop a skill with which episodes succeed clearly less often; to show a skill at
   every turn if its pattern never fires, or to drop it where that was rejected;
2. to add the rules that answer the most prevalent failure modes, two at a time or,
   where that cannot be, one;
3. to reword rules of the bank whose failure mode is still there;
4. advice made from the verbs of successful episodes, where no rule covers them;
5. to drop a skill that does not change what the policy says, or no longer does.

A change that a trial has rejected waits until all evidence is new.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import sqrt
from typing import Any

from reskill_jax.creator.diagnosis import diagnose
from reskill_jax.creator.mining import mine
from reskill_jax.creator.proposal import Evidence, Proposal
from reskill_jax.creator.reservoir import Tally
from reskill_jax.creator.verify import (
    BankProblem,
    Limits,
    Verified,
    no_problem,
    trigger_rate,
    verify,
)
from reskill_jax.skills.assertions import Assertion
from reskill_jax.skills.operations import Add, Delete, Modify, Operation, describe
from reskill_jax.skills.rule import Rule, RuleTable
from reskill_jax.skills.skill import Skill, Trigger, matches


@dataclass(frozen=True)
class Change:
    """One operation, why, and the figures behind it."""

    operation: Operation
    reason: str
    figures: str


@dataclass(frozen=True)
class OfflineCreator:
    """Proposes by rule; deterministic and without state of its own.

    Attributes:
        table: rules that it can write, and the assertions that they answer; with the
            empty one all its advice comes from the verbs of successful episodes.
        limits: what a proposal may be.
        bank_problem: see `verify`.
        min_records: episodes needed before it says anything, about a skill too.
        max_operations: most rules added in one bundle.
        min_support: least share of failed episodes that make a failure mode.
        min_lift: how much more often failures must show it than successes.
        analyse: whether rules are chosen by what failed; otherwise (ablation) they
            come in the order of the table.
        goals: whether a rule that answers checks of some goals is for those only.
        rejected_edits: so many of the newest rejected edits, however old, are not
            proposed again.
    """

    table: RuleTable = field(default_factory=RuleTable)
    limits: Limits = field(default_factory=Limits)
    bank_problem: BankProblem = no_problem
    min_records: int = 20
    max_operations: int = 2
    min_support: float = 0.05
    min_lift: float = 1.3
    analyse: bool = True
    goals: bool = False
    rejected_edits: int = 0

    def propose(self, evidence: Evidence) -> Proposal | None:
        """Return the first change worth a trial; None when there is none."""
        if len(evidence.records) < self.min_records:
            return None
        for changes in self._drafts(evidence):
            proposal = Proposal(
                operations=tuple(change.operation for change in changes),
                reasons=tuple(change.reason for change in changes),
                evidence=tuple(change.figures for change in changes),
                bank=evidence.bank.hash,
            )
            verdict = verify(proposal, evidence, self.limits, self.bank_problem)
            if isinstance(verdict, Verified):
                return proposal
        return None

    def take_metrics(self) -> dict[str, float]:
        """Return nothing: it spends nothing that counts."""
        return {}

    def state(self) -> dict[str, Any]:
        """Return nothing: what it proposes depends on the evidence alone."""
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Do nothing, see `state`."""

    def _drafts(self, evidence: Evidence) -> Iterator[Sequence[Change]]:
        """Yield bundles, the most wanted first."""
        table = self.table
        yield from self._repairs(evidence)
        yield from self._additions(evidence, table.assertions, table.rules)
        yield from self._rewordings(evidence)
        yield from self._additions(evidence, *mine(evidence.records, table.patterns))
        yield from self._removals(evidence)

    def _repairs(self, evidence: Evidence) -> Iterator[Sequence[Change]]:
        for skill in evidence.bank.skills:
            figures = _harm(skill, evidence, self.min_records)
            if figures and not self._was_rejected(evidence, Delete(skill.name)):
                reason = f"episodes fare worse with {skill.name}"
                yield [Change(Delete(skill.name), reason, figures)]
        own = [t for t in evidence.tallies if t.bank == evidence.bank.hash]
        played = sum(tally.episodes for tally in own)
        for skill in evidence.bank.skills:
            shown = sum(tally.shown(skill.name) for tally in own)
            if played < self.min_records or shown > 0:
                continue
            figures = f"{skill.name} fired in none of {played} episodes"
            reason = f"the pattern of {skill.name} never fires"
            options = Modify(skill.name, {"trigger": Trigger()}), Delete(skill.name)
            for operation in options:
                if not self._was_rejected(evidence, operation):
                    yield [Change(operation, reason, figures)]

    def _removals(self, evidence: Evidence) -> Iterator[Sequence[Change]]:
        for effect in evidence.effects:
            delete = Delete(effect.name)
            idle = effect.verdict in ("ignored", "internalised")
            if idle and not self._was_rejected(evidence, delete):
                reason = f"{effect.name} is {effect.verdict}"
                yield [Change(delete, reason, f"{effect.name}: {effect}")]

    def _additions(
        self,
        evidence: Evidence,
        assertions: Sequence[Assertion],
        rules: Sequence[Rule],
    ) -> Iterator[Sequence[Change]]:
        known = set(evidence.bank.names())
        wanted = [rule for rule in rules if rule.name not in known]
        adds = []
        for figures, rule in self._answers(evidence, assertions, wanted):
            add = Add(self._write(rule, evidence))
            if not self._was_rejected(evidence, add):
                adds.append(Change(add, rule.description, figures))
        room = evidence.max_skills - len(known)
        if room < 1:
            drop = [_least_used(evidence)]
        else:
            drop = []
            size = min(room, self.max_operations)
            if 1 < size <= len(adds):
                yield adds[:size]
        for change in adds:
            yield [*drop, change]

    def _rewordings(self, evidence: Evidence) -> Iterator[Sequence[Change]]:
        skills = {skill.name: skill for skill in evidence.bank.skills}
        known = [rule for rule in self.table.rules if rule.name in skills]
        for figures, rule in self._answers(evidence, self.table.assertions, known):
            skill = skills[rule.name]
            texts = (skill.when_to_use, skill.action)
            now = rule.wordings.index(texts) if texts in rule.wordings else -1
            following = now + 1 + _rejections(evidence, Modify(rule.name, {}))
            if following >= len(rule.wordings):
                continue  # every wording has had its turn
            when_to_use, action = rule.wordings[following]
            modify = Modify(rule.name, {"when_to_use": when_to_use, "action": action})
            if not self._was_rejected(evidence, modify):
                reason = f"{rule.name} is not followed as it is worded"
                yield [Change(modify, reason, figures)]

    def _answers(
        self,
        evidence: Evidence,
        assertions: Sequence[Assertion],
        rules: Sequence[Rule],
    ) -> Iterator[tuple[str, Rule]]:
        """Pair figures of failure modes with the rules that answer them, each once.

        The likeliest answers to all modes come before the second thoughts. Only
        assertions that one of `rules` answers are graded, so that episodes are blamed
        on something that can be changed.
        """
        if not self.analyse:
            yield from (("not analysed", rule) for rule in rules)
            return
        findings = diagnose(
            [a for a in assertions if any(a.id in rule.assertions for rule in rules)],
            evidence.records,
            min_support=self.min_support,
            min_lift=self.min_lift,
        )
        pairs = [
            (rule.assertions.index(finding.assertion.id), finding, rule)
            for finding in findings
            for rule in rules
            if finding.assertion.id in rule.assertions
        ]
        done: set[str] = set()
        for _, finding, rule in sorted(pairs, key=lambda pair: pair[0]):
            if rule.name not in done:
                done.add(rule.name)
                yield str(finding), rule

    def _write(self, rule: Rule, evidence: Evidence) -> Skill:
        """Word a rule anew after each rejection; general where its pattern is rare."""
        goal = self._goal(rule)
        records = [r for r in evidence.records if not goal or matches(goal, r.goal)]
        rare = trigger_rate(rule.pattern, records) < self.limits.trigger_rate
        skill = rule.skill(general=rare)
        skill = rule.skill(_rejections(evidence, Add(skill)), general=rare)
        return replace(skill, trigger=replace(skill.trigger, goal=goal))

    def _goal(self, rule: Rule) -> str:
        """Return the goals that a rule is about: those of all checks it answers."""
        own = [a.goal for a in self.table.assertions if a.id in rule.assertions]
        if not self.goals or not own or not all(own):
            return ""
        return "|".join(f"(?:{goal})" for goal in dict.fromkeys(own))

    def _was_rejected(self, evidence: Evidence, operation: Operation) -> bool:
        """Tell whether a recent trial rejected this kind of change to this skill."""
        recent = evidence.rejected(self.limits.cooldown_steps)
        if self.rejected_edits:
            recent += evidence.rejected(evidence.step + 1)[-self.rejected_edits :]
        return any(_concerns(trial.proposal, operation) for trial in recent)


def _rejections(evidence: Evidence, operation: Operation) -> int:
    """Count the trials that ever rejected this kind of change to this skill."""
    ever = evidence.rejected(evidence.step + 1)
    return sum(_concerns(trial.proposal, operation) for trial in ever)


def _concerns(proposal: Proposal, operation: Operation) -> bool:
    """Tell whether a bundle does the same kind of thing to the same skill."""
    return any(describe(other) == describe(operation) for other in proposal.operations)


def _least_used(evidence: Evidence) -> Change:
    """Drop the skill that fired in the fewest episodes, the older one of two."""
    shown = {
        skill.name: sum(tally.shown(skill.name) for tally in evidence.tallies)
        for skill in evidence.bank.skills
    }
    name = min(shown, key=lambda name: shown[name])
    return Change(
        Delete(name),
        "the bank is full",
        f"{name} fired in {shown[name]} episodes",
    )


def _harm(skill: Skill, evidence: Evidence, min_episodes: int) -> str:
    """Compare success with and without a skill on banks that were ever accepted.

    Returns:
        The figures if success is lower with it by more than 5 points and by more than
        1.64 standard errors (5%, one-sided), else nothing.
    """
    accepted = {evidence.bank.hash} | {
        trial.proposal.bank for trial in evidence.history
    }
    tallies = [tally for tally in evidence.tallies if tally.bank in accepted]
    with_it = _sums([tally for tally in tallies if tally.shown(skill.name)])
    without = _sums([tally for tally in tallies if not tally.shown(skill.name)])
    if min(with_it[1], without[1]) < min_episodes:
        return ""
    effect = with_it[0] / with_it[1] - without[0] / without[1]
    pooled = (with_it[0] + without[0]) / (with_it[1] + without[1])
    error = sqrt(pooled * (1 - pooled) * (1 / with_it[1] + 1 / without[1]))
    if effect > -0.05 or effect > -1.64 * error:
        return ""
    return (
        f"{skill.name}: success {with_it[0]} of {with_it[1]} with it, {without[0]} of"
        f" {without[1]} without"
    )


def _sums(tallies: Sequence[Tally]) -> tuple[int, int]:
    """Return successes and episodes."""
    return sum(t.successes for t in tallies), sum(t.episodes for t in tallies)
