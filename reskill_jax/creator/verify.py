"""Checks a proposal before rollouts are spent on it.

`verify` is a pure function. It answers with the candidate bank or with every problem
it found, each with a reason of the closed set `Rejection` and a detail that says what
to change.
"""

import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from reskill_jax.creator.proposal import Evidence, Proposal, content_hash, new_skills
from reskill_jax.llm.sanitize import markup
from reskill_jax.skills.episode_record import EpisodeRecord
from reskill_jax.skills.operations import OperationError, Rejection, apply
from reskill_jax.skills.skill import Skill, SkillBank, matches

_FIELDS = ("description", "when_to_use", "action", "example")
# Control, format (bidirectional, zero width), private use, line and page separators.
_INVISIBLE = {"Cc", "Cf", "Co", "Zl", "Zp"}


@dataclass(frozen=True)
class Limits:
    """What a proposal may be (paper, sections 3.3 and 3.4).

    Attributes:
        characters: of when_to_use, action and example together.
        when_to_use_words: of when_to_use.
        action_words: of action.
        example_lines: of example.
        pattern_characters: of a trigger's pattern.
        operations: of a bundle.
        trigger_rate: least share of recent episodes in which an action pattern fires;
            of those that a condition on the goal leaves.
        goal_rate: least share of recent episodes that such a condition leaves (ours).
        cooldown_steps: for which a rejected skill or bank is not tried again; by then
            the policy is another one and all evidence is new.
    """

    characters: int = 500
    when_to_use_words: int = 25
    action_words: int = 50
    example_lines: int = 2
    pattern_characters: int = 200
    operations: int = 3
    trigger_rate: float = 0.5
    goal_rate: float = 0.1
    cooldown_steps: int = 20


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong: `reason` for programs, `detail` for the author."""

    reason: Rejection
    detail: str


@dataclass(frozen=True)
class Verified:
    """The proposal may be tried; `candidate` is the bank that it makes."""

    candidate: SkillBank


@dataclass(frozen=True)
class Rejected:
    """The proposal may not be tried; `problems` has at least one entry."""

    problems: tuple[Problem, ...]


BankProblem = Callable[[SkillBank], str]  # see `PromptBuilder.bank_problem`


def no_problem(bank: SkillBank) -> str:
    """Find room for every bank; where there are no prompts."""
    return ""


def verify(
    proposal: Proposal,
    evidence: Evidence,
    limits: Limits | None = None,
    bank_problem: BankProblem = no_problem,
) -> Verified | Rejected:
    """Check a proposal against the bank, recent episodes and past trials.

    Args:
        proposal: what to check.
        evidence: what it was made from.
        limits: budgets and the trigger gate, the paper's by default.
        bank_problem: says why the candidate has no room in prompts; "" where it has.

    Returns:
        The candidate bank, or all problems of its new and changed skills. What keeps
        the bundle from being applied at all is reported alone.

    Raises:
        ValueError: the proposal was written for another bank than `evidence.bank`.
    """
    if proposal.bank != evidence.bank.hash:
        raise ValueError(
            f"the proposal was written for bank {proposal.bank}, the bank is now"
            f" {evidence.bank.hash}: drop it"
        )
    limits = limits or Limits()
    try:
        candidate = apply(
            evidence.bank, proposal.operations, max_skills=evidence.max_skills
        )
    except OperationError as error:
        return Rejected((Problem(error.rejection, error.detail),))
    problems = [*_bundle_problems(proposal, candidate, evidence, limits)]
    for skill in new_skills(evidence.bank, candidate):
        problems += _text_problems(skill)
        problems += _budget_problems(skill, limits)
        problems += _duplicate_problems(skill, candidate, evidence, limits)
        problems += _trigger_problems(skill, evidence.records, limits)
    if detail := bank_problem(candidate):
        problems.append(Problem(Rejection.OVER_BUDGET, detail))
    return Rejected(tuple(problems)) if problems else Verified(candidate)


def trigger_rate(pattern: str, records: Sequence[EpisodeRecord]) -> float:
    """Return the share of episodes in which an action pattern would fire.

    The last action of an episode does not count: no turn follows it. 0 when there is
    no record (paper, section 3.3).
    """
    fires = [any(matches(pattern, a) for a in r.actions[:-1]) for r in records]
    return sum(fires) / len(fires) if fires else 0.0


def _bundle_problems(
    proposal: Proposal, candidate: SkillBank, evidence: Evidence, limits: Limits
) -> Iterator[Problem]:
    count = len(proposal.operations)
    if count > limits.operations:
        yield Problem(
            Rejection.OVER_BUDGET,
            f"the bundle has {count} operations, at most {limits.operations} are"
            " allowed",
        )
    before, after = (
        Counter(map(content_hash, bank.skills)) for bank in (evidence.bank, candidate)
    )
    if before == after:  # a trial of it would compare equal prompts
        yield Problem(
            Rejection.EMPTY_CHANGE,
            "the bundle changes names or descriptions only, nothing that the agent is"
            " told: change the advice or when it applies",
        )
    for trial in evidence.rejected(limits.cooldown_steps):
        if trial.candidate == candidate.hash:
            yield Problem(
                Rejection.DUPLICATE,
                f"the same bank was rejected at step {trial.step}",
            )


def _text_problems(skill: Skill) -> Iterator[Problem]:
    texts = {field: getattr(skill, field) for field in _FIELDS}
    patterns = {"pattern": skill.trigger.pattern, "goal": skill.trigger.goal}
    texts |= {f"trigger.{field}": text for field, text in patterns.items()}
    for field, text in texts.items():
        lines = text.split("\n") if field == "example" else [text]
        invisible = {
            character
            for line in lines
            for character in line
            if unicodedata.category(character) in _INVISIBLE
        }
        if invisible:
            yield Problem(
                Rejection.UNSAFE_TEXT,
                f"{skill.name}.{field} has control or invisible characters:"
                f" {', '.join(sorted(ascii(c) for c in invisible))}",
            )
        # A pattern is never shown to the agent and may need angle brackets.
        found = markup(text) if not field.startswith("trigger.") else []
        if found:
            yield Problem(
                Rejection.UNSAFE_TEXT,
                f"{skill.name}.{field} has markup that could break a prompt:"
                f" {' '.join(found)}",
            )


def _budget_problems(skill: Skill, limits: Limits) -> Iterator[Problem]:
    content = skill.when_to_use + skill.action + skill.example
    lines = len(skill.example.splitlines())
    table = (
        ("content", len(content), limits.characters, "characters"),
        ("when_to_use", _words(skill.when_to_use), limits.when_to_use_words, "words"),
        ("action", _words(skill.action), limits.action_words, "words"),
        ("example", lines, limits.example_lines, "lines"),
        (
            "trigger.pattern",
            len(skill.trigger.pattern),
            limits.pattern_characters,
            "characters",
        ),
        (
            "trigger.goal",
            len(skill.trigger.goal),
            limits.pattern_characters,
            "characters",
        ),
    )
    for field, size, most, unit in table:
        if size > most:
            yield Problem(
                Rejection.OVER_BUDGET,
                f"{skill.name}.{field} has {size} {unit}, {size - most} more than the"
                f" {most} allowed",
            )


def _duplicate_problems(
    skill: Skill, candidate: SkillBank, evidence: Evidence, limits: Limits
) -> Iterator[Problem]:
    own = content_hash(skill)
    for other in candidate.skills:
        if other is not skill and content_hash(other) == own:
            yield Problem(
                Rejection.DUPLICATE, f"{skill.name} says the same as {other.name}"
            )
    for trial in evidence.rejected(limits.cooldown_steps):
        if own in trial.skills:
            yield Problem(
                Rejection.DUPLICATE,
                f"{skill.name} was rejected with the same content at step {trial.step}",
            )


def _trigger_problems(
    skill: Skill, records: Sequence[EpisodeRecord], limits: Limits
) -> Iterator[Problem]:
    if skill.trigger.goal:
        about = [record for record in records if skill.trigger.about(record.goal)]
        share = len(about) / len(records) if records else 0.0
        if share < limits.goal_rate:
            yield Problem(
                Rejection.TRIGGER_RATE,
                f"{skill.name}: goal {skill.trigger.goal!r} is found in {share:.0%} of"
                f" {len(records)} recent goals, at least {limits.goal_rate:.0%} is"
                " needed: broaden it or leave it empty",
            )
            return
        records = about
    if skill.trigger.kind != "action_pattern":
        return
    rate = trigger_rate(skill.trigger.pattern, records)
    if rate < limits.trigger_rate:
        yield Problem(
            Rejection.TRIGGER_RATE,
            f"{skill.name}: pattern {skill.trigger.pattern!r} fires in {rate:.0%} of"
            f" {len(records)} recent episodes, at least {limits.trigger_rate:.0%} is"
            " needed: broaden it or make the trigger general",
        )


def _words(text: str) -> int:
    return len(text.split())
