"""A creator with a language model: from episodes to a proposal in five stages.

    analyse    what sets failed episodes of a task apart; one call per task, in parallel
    diagnose   what goes wrong most; edits of the assertions that measure it
    recommend  one to three changes of the library, and why
    author     their words
    verify     no call; what is rejected goes back to the author with the reasons

`LlmCreator.propose` blocks until it is done; `background.Background` runs it beside
training.
"""

import json
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from absl import logging

from reskill_jax.codec import decode, encode
from reskill_jax.creator import render
from reskill_jax.creator.prompting import Prompts
from reskill_jax.creator.proposal import Evidence, Proposal
from reskill_jax.creator.proposal_report import Cycle
from reskill_jax.creator.schemas import (
    Advice,
    Analysis,
    AssertionChange,
    Diagnosis,
    Draft,
    Drafts,
    GoalDrafts,
    Recommendation,
)
from reskill_jax.creator.verify import (
    BankProblem,
    Limits,
    Problem,
    Verified,
    no_problem,
    verify,
)
from reskill_jax.llm.caller import Caller, CallError
from reskill_jax.llm.json_schema import strict_schema
from reskill_jax.skills.assertions import Assertion, AssertionSet
from reskill_jax.skills.episode_record import EpisodeRecord
from reskill_jax.terminal import activity, duration

_STAGES = ("analyse", "diagnose", "recommend", "author")  # names of their prompts

_T = TypeVar("_T")
_R = TypeVar("_R")


class LlmCreator:
    """Proposes what a language model makes of the evidence.

    Args:
        caller: asks the model.
        prompts: what it is asked.
        limits: what a proposal may be.
        analysed_tasks: most groups of episodes analysed; 0 leaves the stage out.
        max_concurrency: calls at a time.
        author_attempts: bundles that the author may try.
        bank_problem: see `verify`.
        grade: whether assertions grade episodes; otherwise (ablation) the model sees
            no pass rates, and the assertions that it wants are ignored.
        goals: whether skills may be for some goals only.
        rejected_edits: newest rejected edits that the author sees with their effects.
    """

    def __init__(
        self,
        caller: Caller,
        prompts: Prompts,
        limits: Limits | None = None,
        *,
        analysed_tasks: int = 30,
        max_concurrency: int = 16,
        author_attempts: int = 3,
        bank_problem: BankProblem = no_problem,
        grade: bool = True,
        goals: bool = False,
        rejected_edits: int = 0,
    ):
        self._grade = grade
        self._goals = goals
        self._rejected_edits = rejected_edits
        self._caller = caller
        self._prompts = prompts
        self._limits = limits or Limits()
        self._analysed_tasks = analysed_tasks
        self._max_concurrency = max_concurrency
        self._author_attempts = author_attempts
        self._bank_problem = bank_problem
        self._assertions = AssertionSet()
        self._stage = ""
        self._groups = 0  # analysed in this cycle, a call each
        self.last = Cycle()

    def propose(self, evidence: Evidence) -> Proposal | None:
        """Go through the stages; None where the model proposes nothing or fails."""
        self._caller.begin(evidence.step)
        cycle = self.last = Cycle()
        self._groups = 0
        try:
            with activity("the creator", self.progress):
                cycle.insights = self._analyse(evidence)
                cycle.diagnosis = self._diagnose(evidence, cycle.insights)
                cycle.assertions = self._graded(evidence)
                cycle.advice = self._recommend(evidence, cycle)
                return self._author(evidence, cycle) if cycle.advice else None
        except CallError as error:
            cycle.error = str(error)
            logging.warning("the creator has no proposal this time: %s", error)
            return None

    def progress(self) -> str:
        """Say how far the proposal is: stage, calls, tokens, and about how long yet.

        The time left is that of the calls to come, if the first bundle passes and they
        take as long as those before.
        """
        spent = self._caller.spending.cycle
        parts = [
            f"stage {self._stage}",
            f"{spent['calls']} calls",
            f"{spent['tokens']:,} tokens",
        ]
        if answers := spent["answers"]:
            unanswered = max(self._groups - answers, 0)
            calls = calls_left(self._stage, unanswered, self._max_concurrency)
            parts.append(f"about {duration(calls * spent['seconds'] / answers)} left")
        return ", ".join(parts)

    def take_metrics(self) -> dict[str, float]:
        """Return what was counted since the last call."""
        counted = self._caller.spending.take()
        return {f"creator/{name}": value for name, value in counted.items()}

    def state(self) -> dict[str, Any]:
        """Return the assertions and what the run has spent."""
        return {
            "assertions": encode(self._assertions.assertions),
            "spent": dict(self._caller.state()),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` returned."""
        kind = tuple[Assertion, ...]
        found = decode(kind, state["assertions"], name="assertions")
        self._assertions = AssertionSet(found)
        self._caller.restore(state["spent"])

    def _analyse(self, evidence: Evidence) -> list[str]:
        """Compare the episodes of each task; a group without an answer is left out.

        Raises:
            CallError: there is no answer for any group.
        """

        def ask(group: list[EpisodeRecord]) -> Analysis | CallError:
            prompt = self._fill(
                "analyse",
                Analysis,
                task=render.task(group[0]),
                episodes=render.episodes(group, evidence.bank.hash),
            )
            try:
                return self._caller.ask(*prompt, Analysis)
            except CallError as error:
                return error

        groups = render.groups(evidence.records, self._analysed_tasks)
        self._groups = len(groups)
        answers = parallel(ask, groups, self._max_concurrency)
        errors = [answer for answer in answers if isinstance(answer, CallError)]
        if errors and len(errors) == len(answers):
            raise errors[0]
        return [
            _insight(group, answer)
            for group, answer in zip(groups, answers, strict=True)
            if isinstance(answer, Analysis)
        ]

    def _diagnose(self, evidence: Evidence, insights: Sequence[str]) -> Diagnosis:
        """Ask for the diagnosis and edit the assertions as it says."""
        prompt = self._fill(
            "diagnose",
            Diagnosis,
            outcomes=render.outcomes(evidence),
            assertions=self._graded(evidence),
            skills=render.skills(evidence),
            insights=render.numbered(insights, 900),
            assertion_cap=self._assertions.cap,
        )
        diagnosis = self._caller.ask(*prompt, Diagnosis)
        changes = diagnosis.assertions if self._grade else ()
        known = {assertion.id for assertion in self._assertions.assertions}
        # Deletes make room for what is added, whatever their order in the answer.
        for change in sorted(
            changes, key=lambda c: c.op != "delete" or c.id not in known
        ):
            try:
                self._assertions = edited(self._assertions, change)
            except ValueError as error:
                self._caller.spending.count("rejected_assertions")
                logging.info("assertion %s is rejected: %s", change.id, error)
        return diagnosis

    def _graded(self, evidence: Evidence) -> str:
        """Lay out the assertions with their pass rates."""
        found = self._assertions.assertions if self._grade else ()
        return render.assertions(found, evidence)

    def _recommend(self, evidence: Evidence, cycle: Cycle) -> list[Recommendation]:
        assert cycle.diagnosis is not None
        labels = [f"{c.label}: {c.insight}" for c in cycle.diagnosis.clusters]
        prompt = self._fill(
            "recommend",
            Advice,
            diagnosis=f"{cycle.diagnosis.summary}\n{render.numbered(labels)}",
            assertions=cycle.assertions,
            skills=render.skills(evidence),
            trials=render.trials(evidence.history),
            actions=render.actions(evidence.records),
            count=len(evidence.bank.skills),
            max_skills=evidence.max_skills,
            rate=f"{self._limits.trigger_rate:.0%}",
        )
        return self._caller.ask(*prompt, Advice).operations

    def _author(self, evidence: Evidence, cycle: Cycle) -> Proposal | None:
        """Ask for the words until they pass, showing why the last ones did not."""
        schema: type[Drafts] | type[GoalDrafts] = GoalDrafts if self._goals else Drafts
        for _ in range(self._author_attempts):
            prompt = self._fill(
                "author",
                schema,
                plan=render.numbered(map(_planned, cycle.advice), 1400),
                insights=render.numbered(_cited(cycle), 900),
                skills=render.skills(evidence),
                actions=render.actions(evidence.records),
                rejections=_reasons(cycle.rejections),
                when_to_use_words=self._limits.when_to_use_words,
                action_words=self._limits.action_words,
                example_lines=self._limits.example_lines,
                characters=self._limits.characters,
                options=self._options(evidence),
                rate=f"{self._limits.trigger_rate:.0%}",
            )
            drafts: Sequence[Draft] = self._caller.ask(*prompt, schema).operations
            proposal = Proposal(
                operations=tuple(d.operation(evidence.bank) for d in drafts),
                reasons=tuple(draft.reason for draft in drafts),
                evidence=tuple(
                    f"{r.intent} {r.evidence}".strip() for r in cycle.advice
                ),
                bank=evidence.bank.hash,
            )
            verdict = verify(proposal, evidence, self._limits, self._bank_problem)
            if isinstance(verdict, Verified):
                return proposal
            cycle.rejections.append(verdict.problems)
            for reason in {problem.reason for problem in verdict.problems}:
                self._caller.spending.count(f"rejected/{reason}")
        return None

    def _options(self, evidence: Evidence) -> str:
        """Put what is asked of the author, or told, beside the published rules."""
        text = ""
        if self._goals:
            text += (
                "\n- goal: empty, or RE2, searched in the goal sentence, ignoring case:"
                " the skill is shown only in tasks whose goal it is found in; it must"
                f" be found in at least {self._limits.goal_rate:.0%} of goals. Give one"
                " where the advice would mislead in other tasks. Goals, by type of"
                f" task:\n<goals>\n{render.goals(evidence.records)}\n</goals>"
            )
        if self._rejected_edits:
            lost = render.rejected(evidence.history, self._rejected_edits)
            text += (
                "\n- these edits were tried and rejected, with their measured effects:"
                f" write nothing alike\n<rejected>\n{lost}\n</rejected>"
            )
        return text

    def _fill(self, stage: str, schema: Any, **values: object) -> tuple[str, str]:
        """Return the system prompt and a stage's prompt."""
        self._stage = stage
        values["schema"] = json.dumps(strict_schema(schema))
        return self._prompts.fill("system", {}), self._prompts.fill(stage, values)


def calls_left(stage: str, unanswered: int, max_concurrency: int) -> int:
    """Return how many calls, one after another, a proposal still takes at best.

    Args:
        stage: the present one.
        unanswered: groups of episodes whose analysis is still to come.
        max_concurrency: calls at a time.
    """
    later = len(_STAGES) - _STAGES.index(stage)
    if stage != "analyse":
        return later
    return -(-unanswered // max_concurrency) + later - 1


def edited(assertions: AssertionSet, change: AssertionChange) -> AssertionSet:
    """Carry out one edit.

    Raises:
        ValueError: there is no such assertion, or the edit cannot be used.
    """
    found = {assertion.id: assertion for assertion in assertions.assertions}
    if change.op == "add" and change.id in found:
        raise ValueError(f"there is an assertion {change.id!r}: modify it")
    if change.op != "add" and change.id not in found:
        raise ValueError(f"there is no assertion {change.id!r}")
    if change.op == "delete":
        del found[change.id]
    else:
        found[change.id] = change.assertion()
    return AssertionSet(tuple(found.values()), assertions.cap)


def parallel(
    function: Callable[[_T], _R], items: Sequence[_T], max_concurrency: int
) -> list[_R]:
    """Apply a function to all items, `max_concurrency` at a time, in order.

    The threads are daemons: unlike those of an executor they do not keep a program from
    ending while a service is slow.

    Raises:
        Exception: what the function raised first.
    """
    results: dict[int, _R] = {}
    errors: list[Exception] = []
    places = iter(range(len(items)))
    lock = threading.Lock()

    def work() -> None:
        while True:
            with lock:
                place = next(places, None)
            if place is None or errors:
                return
            try:
                results[place] = function(items[place])
            except Exception as error:  # raised below, in the thread that waits
                errors.append(error)

    threads = [
        threading.Thread(target=work, daemon=True)
        for _ in range(min(max_concurrency, len(items)))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return [results[place] for place in range(len(items))]


def _insight(group: Sequence[EpisodeRecord], answer: Analysis) -> str:
    """Put an analysis into one line, with the figures of its group."""
    won = sum(record.success for record in group)
    parts = {
        "failure": f"{answer.failure_mode} {answer.failure_point}".strip(),
        "works": answer.success_pattern,
        "skills": answer.skill_impact,
        "after": ", ".join(answer.patterns),
    }
    shown = "; ".join(f"{name}: {text}" for name, text in parts.items() if text)
    figures = f"{group[0].kind}, {won} of {len(group)} won, {answer.confidence}"
    return f"({figures}) {answer.insight} {shown}"


def _planned(item: Recommendation) -> str:
    return (
        f"{item.op} {item.target}: {item.intent} Evidence: {item.evidence} Trigger:"
        f" {item.trigger or 'as fits'}"
    )


def _cited(cycle: Cycle) -> list[str]:
    """Return the insights behind the plan; all clusters' words where none is cited."""
    assert cycle.diagnosis is not None
    clusters = cycle.diagnosis.clusters
    wanted = {
        i for item in cycle.advice for i in item.clusters if 0 <= i < len(clusters)
    }
    chosen = [clusters[i] for i in sorted(wanted)] or clusters
    groups = {group for cluster in chosen for group in cluster.groups}
    cited = [line for i, line in enumerate(cycle.insights) if i in groups]
    return [f"{cluster.label}: {cluster.insight}" for cluster in chosen] + cited[:12]


def _reasons(rejections: Sequence[tuple[Problem, ...]]) -> str:
    """List what was wrong with each bundle so far."""
    return render.numbered(
        (
            "; ".join(f"{p.reason}: {p.detail}" for p in problems)
            for problems in rejections
        ),
        1500,
    )
