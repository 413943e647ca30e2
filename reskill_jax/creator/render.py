"""Evidence as text for prompts and reports: bounded, cleaned, one item per line."""

from collections import Counter
from collections.abc import Iterable, Sequence

from reskill_jax.creator.mining import verb_of
from reskill_jax.creator.proposal import Evidence, PastTrial
from reskill_jax.creator.verify import trigger_rate
from reskill_jax.llm.sanitize import clean
from reskill_jax.skills.assertions import Assertion, AssertionStats, Rate, profile
from reskill_jax.skills.checks import name_of, parameters
from reskill_jax.skills.episode_record import EpisodeRecord
from reskill_jax.skills.operations import Add, Modify, Operation, describe
from reskill_jax.skills.skill import Skill

_NONE = "(none)"
_TURNS = 40  # shown of an episode, half of them its last
_EPISODES = 6  # of one group
_BANKS = 10  # whose successes are counted, the newest


def groups(records: Sequence[EpisodeRecord], count: int) -> list[list[EpisodeRecord]]:
    """Group records by task, those with both outcomes first, then failures.

    Returns:
        At most `count` groups of one to six episodes, the newest of each outcome. Of
        one kind of group the newest come first: their order in the batch is drawn,
        while ids begin with the type of task, and the last types would be left out.
    """
    by_task: dict[str, list[EpisodeRecord]] = {}
    for record in reversed(records):  # newest first
        by_task.setdefault(record.task, []).append(record)

    def rank(group: Sequence[EpisodeRecord]) -> int:
        outcomes = {record.success for record in group}
        return 0 if len(outcomes) == 2 else 2 if True in outcomes else 1

    chosen = []
    for episodes in sorted(by_task.values(), key=rank)[:count]:
        half = _EPISODES // 2
        lost = [record for record in episodes if not record.success]
        won = [record for record in episodes if record.success]
        lost = lost[: max(half, _EPISODES - len(won))]
        chosen.append([*lost, *won[: _EPISODES - len(lost)]])
    return chosen


def task(record: EpisodeRecord) -> str:
    """Describe the task of an episode."""
    return f"kind: {clean(record.kind, 80)}\ngoal: {clean(record.goal, 300)}"


def episodes(records: Iterable[EpisodeRecord], bank: str) -> str:
    """Lay out episodes; `bank` is the hash of the accepted bank."""
    return "\n\n".join(_episode(i, record, bank) for i, record in enumerate(records, 1))


def _episode(number: int, record: EpisodeRecord, bank: str) -> str:
    outcome = "reached the goal" if record.success else "failed"
    shown = ", ".join(clean(name, 64) for name in sorted(record.skills())) or "none"
    library = "the present library" if record.bank == bank else "another library"
    count = len(record.actions)
    lines = [
        f"episode {number}: {outcome} after {count} actions, on {library};"
        f" skills shown: {shown}"
    ]
    skipped = range(_TURNS // 2, count - _TURNS // 2)
    for turn, action in enumerate(record.actions):
        if turn in skipped:
            if turn == skipped.start:
                lines.append(f"  ({len(skipped)} turns left out)")
            continue
        seen = (
            clean(record.observations[turn], 240)
            if turn < len(record.observations)
            else ""
        )
        lines.append(f"  saw: {seen}\n  did: {clean(action, 120)}")
    if len(record.observations) > count:
        lines.append(f"  saw at last: {clean(record.observations[-1], 240)}")
    return "\n".join(lines)


def outcomes(evidence: Evidence) -> str:
    """Count episodes and successes, of the sample and, by library, of all episodes."""
    won = sum(record.success for record in evidence.records)
    lines = [f"sampled episodes: {len(evidence.records)}, {won} of them successful"]
    totals: dict[str, list[int]] = {}
    for tally in evidence.tallies:
        total = totals.setdefault(tally.bank, [0, 0])
        total[0] += tally.successes
        total[1] += tally.episodes
    for bank, (successes, played) in [*totals.items()][-_BANKS:]:
        here = bank == evidence.bank.hash
        which = "the present library" if here else f"library {clean(bank, 40)}"
        lines.append(f"all recent episodes on {which}: {successes} of {played} won")
    return "\n".join(lines)


def assertions(found: Sequence[Assertion], evidence: Evidence) -> str:
    """Grade and lay out assertions: pass rates by outcome and by library."""
    stats = profile(found, evidence.records)
    return (
        "\n".join(
            _assertion(a, s, evidence.bank.hash)
            for a, s in zip(found, stats, strict=True)
        )
        or _NONE
    )


def _assertion(assertion: Assertion, stats: AssertionStats, bank: str) -> str:
    given = parameters(assertion.check).items()
    params = {name: value for name, value in given if value not in ("", None)}
    about = f", goals like {assertion.goal!r}" if assertion.goal else ""
    here = stats.banks.get(bank, Rate())
    others = Rate(
        sum(r.passed for r in stats.banks.values()) - here.passed,
        sum(r.applicable for r in stats.banks.values()) - here.applicable,
    )
    return clean(
        f"{assertion.id}: {name_of(assertion.check)} {params}{about}: passed by"
        f" {_share(stats.success)} successes, {_share(stats.failure)} failures;"
        f" {_share(here)} on the present library, {_share(others)} on others",
        600,
    )


def _share(rate: Rate) -> str:
    return f"{rate.passed} of {rate.applicable}"


def skills(evidence: Evidence) -> str:
    """Lay out the library: words, trigger, how often it fires and what happens then."""
    return "\n".join(_skill(s, evidence) for s in evidence.bank.skills) or _NONE


def _skill(skill: Skill, evidence: Evidence) -> str:
    own = [t for t in evidence.tallies if t.bank == evidence.bank.hash]
    shown = sum(tally.shown(skill.name) for tally in own)
    played = sum(tally.episodes for tally in own)
    effect = next((e for e in evidence.effects if e.name == skill.name), None)
    measured = f"; {effect}" if effect else ""
    return (
        f"{skill.name} {_words(skill)} [fired in {shown} of {played} recent episodes"
        f"{measured}]"
    )


def _words(skill: Skill) -> str:
    """Put all but a skill's name into one line."""
    pattern = f" {skill.trigger.pattern!r}" if skill.trigger.pattern else ""
    pattern += f", goals like {skill.trigger.goal!r}" if skill.trigger.goal else ""
    example = f" Example: {skill.example}" if skill.example else ""
    return clean(
        f"({skill.trigger.kind}{pattern}, version {skill.version}): When:"
        f" {skill.when_to_use} Do: {skill.action}{example}",
        900,
    )


def trials(history: Sequence[PastTrial]) -> str:
    """Lay out what was tested, newest first: operations, verdict, effect."""
    lines = []
    for trial in [*reversed(history)][:10]:
        effect = "untested" if trial.effect is None else f"{trial.effect:+.1%}"
        bundle = "; ".join(operation(o) for o in trial.proposal.operations)
        lines.append(f"step {trial.step}: {trial.verdict} ({effect}): {bundle}")
    return "\n".join(lines) or _NONE


def rejected(history: Sequence[PastTrial], count: int) -> str:
    """Lay out the newest edits that were rejected, each with its measured effect."""
    lost = [trial for trial in history if trial.verdict == "rejected"]
    return trials(lost[-count:]) if count else _NONE


def goals(records: Sequence[EpisodeRecord]) -> str:
    """Give one goal of each type of task, so that patterns can be written for them."""
    found = {record.kind: record.goal for record in records}
    lines = [f"{kind}: {goal}" for kind, goal in sorted(found.items())]
    return "\n".join(clean(line, 200) for line in lines[:12]) or _NONE


def operation(change: Operation) -> str:
    """Put an operation with all its words into one line."""
    match change:
        case Add(skill=skill):
            return f"{describe(change)} {_words(skill)}"
        case Modify(changes=changes) if changes:
            return clean(f"{describe(change)} {dict(changes)}", 900)
    return describe(change)


def actions(records: Sequence[EpisodeRecord]) -> str:
    """List what agents do: a pattern per verb, and in how many episodes it would fire.

    As for the gate, the last action of an episode does not count.
    """
    verbs = Counter(
        verb
        for record in records
        for verb in {verb_of(action) for action in record.actions} - {None}
    )
    lines = [
        f"^{verb} .*: fires in {trigger_rate(rf'^{verb}', records):.0%} of episodes"
        for verb, _ in sorted(verbs.items(), key=lambda item: (-item[1], item[0]))[:20]
    ]
    return "\n".join(lines) or _NONE


def numbered(lines: Iterable[str], limit: int = 500) -> str:
    """Number lines from 0, cleaned."""
    text = "\n".join(f"{i}. {clean(line, limit)}" for i, line in enumerate(lines))
    return text or _NONE
