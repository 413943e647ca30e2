"""The offline creator finds the cause, respects verdicts and mends the bank."""

import json
from collections import Counter
from dataclasses import replace

import pytest
from text_episodes import acts, added, ask, many, record

from reskill_jax.codec import decode, encode
from reskill_jax.creator.offline import OfflineCreator
from reskill_jax.creator.proposal import Evidence, PastTrial
from reskill_jax.creator.reservoir import Tally
from reskill_jax.creator.verify import Verified, verify
from reskill_jax.environments.alfworld.rules import FAMILY, HARMFUL, HELPFUL, TABLE
from reskill_jax.skills.effects import SkillEffect
from reskill_jax.skills.episode_record import EpisodeRecord
from reskill_jax.skills.operations import Add, Delete, Modify, apply
from reskill_jax.skills.skill import Skill, SkillBank, Trigger

RULES = {rule.name: rule for rule in HELPFUL}
WIN = record(
    """
    You are in a room.
    > go to cabinet 1
    The cabinet 1 is closed.
    > open cabinet 1
    You open the cabinet 1. In it, you see a egg 1.
    > take egg 1 from cabinet 1
    You pick up the egg 1.
    > go to fridge 1
    The fridge 1 is closed.
    > open fridge 1
    The fridge 1 is open.
    > move egg 1 to fridge 1
    You move the egg 1 to the fridge 1.
    """,
    success=True,
)
SHELF, TAKE, SINK = "go to shelf 1", "take egg 1 from shelf 1", "go to sinkbasin 1"
MOVE = "move egg 1 to sinkbasin 1"
WANDER = ("go to shelf 2", "go to shelf 3", "go to shelf 4", "go to shelf 5", "look")
HOT, TWO = "put a hot egg in sinkbasin.", "put two egg in sinkbasin."
LIGHT = "look at egg under the desklamp."

# (what fails, a failed episode, the operations proposed first)
MODES = [
    (
        "never heated",
        acts(SHELF, TAKE, SINK, MOVE, goal=HOT),
        ["heat-cool-or-clean-first"],
    ),
    (
        "heated too late",
        acts(SHELF, TAKE, SINK, MOVE, "heat egg 1 with microwave 1", goal=HOT),
        ["heat-cool-or-clean-first"],
    ),
    ("never lit", acts(SHELF, TAKE, *WANDER, goal=LIGHT), ["use-the-lamp"]),
    (
        "second never taken",
        acts(SHELF, TAKE, SINK, MOVE, *WANDER, goal=TWO),
        ["find-the-second"],
    ),
    (
        "never delivered",
        acts(SHELF, TAKE, *WANDER),
        ["carry-it-to-the-target", "place-it-at-the-target"],
    ),
    (
        "never opened",
        record("> go to cabinet 1\nThe cabinet 1 is closed.\n> go to shelf 1\nshelf"),
        ["open-what-is-closed"],
    ),
    (
        "back and forth",
        acts(SHELF, "open shelf 1", SINK, SHELF, SINK),
        ["search-new-places"],
    ),
    (
        "never taken",
        acts(SHELF, "open shelf 1", SINK),
        ["take-it-on-sight", "open-what-is-closed"],
    ),
]


def wins(goal=WIN.goal) -> list[EpisodeRecord]:
    return many(replace(WIN, goal=goal), 10, "win")


def evidence(failure: EpisodeRecord, **changes) -> Evidence:
    records = [*many(failure, 15, "fail"), *wins()]
    return replace(Evidence(SkillBank(), records), **changes)


def names(proposal) -> list[str]:
    return [
        o.skill.name if isinstance(o, Add) else f"{type(o).__name__} {o.name}"
        for o in proposal.operations
    ]


def judge(seen: Evidence, proposal, accepted, steps=5) -> Evidence:
    """Let a trial end: the next evidence, `steps` later."""
    candidate = apply(seen.bank, proposal.operations, max_skills=seen.max_skills)
    step = seen.step + steps
    trial = PastTrial.judged(step, proposal, (seen.bank, candidate), accepted)
    bank = candidate if accepted else seen.bank
    return replace(seen, bank=bank, history=(*seen.history, trial), step=step)


@pytest.mark.parametrize(
    ("failure", "expected"), [mode[1:] for mode in MODES], ids=[m[0] for m in MODES]
)
def test_failure_mode_leads_to_its_rule(failure, expected):
    seen = evidence(failure)
    proposal = ask(OfflineCreator(TABLE), seen)
    assert names(proposal) == expected
    assert proposal.bank == seen.bank.hash
    assert len(proposal.reasons) == len(proposal.evidence) == len(expected)
    assert "failed by 100% of failed episodes" in proposal.evidence[0]
    assert isinstance(verify(proposal, seen), Verified)


def test_modes_reach_all_rules_and_assertions():
    assert {name for mode in MODES for name in mode[2]} == set(RULES)
    failed = [
        {a.id for a in FAMILY if a.grade(episode) is False} for _, episode, _ in MODES
    ]
    assert set().union(*failed) == {assertion.id for assertion in FAMILY}
    assert all(assertion.grade(WIN) is not False for assertion in FAMILY)


def test_without_the_analyser_rules_come_in_the_order_of_the_table():
    table = [rule.name for rule in HELPFUL]
    for _, failure, expected in MODES[:3]:
        seen = evidence(failure)
        proposal = ask(OfflineCreator(TABLE, analyse=False), seen)
        assert names(proposal) == table[:2] != expected
        assert set(proposal.evidence) == {"not analysed"}


def test_most_prevalent_mode_comes_first():
    lit = acts(SHELF, TAKE, *WANDER, goal=LIGHT)
    closed = MODES[5][1]
    for counts, expected in (
        ((12, 5), ["use-the-lamp", "open-what-is-closed"]),
        ((5, 12), ["open-what-is-closed", "use-the-lamp"]),
    ):
        records = [*many(lit, counts[0], "a"), *many(closed, counts[1], "b"), *wins()]
        assert (
            names(ask(OfflineCreator(TABLE), Evidence(SkillBank(), records)))
            == expected
        )
        one = OfflineCreator(TABLE, max_operations=1)
        assert names(ask(one, Evidence(SkillBank(), records))) == expected[:1]


@pytest.mark.parametrize(
    ("idle", "trigger"),
    [(10, Trigger("action_pattern", r"^(take|go to) .*")), (11, Trigger())],
)
def test_rule_is_general_where_its_pattern_fires_in_less_than_half(idle, trigger):
    fires = many(acts(SHELF, TAKE, "look", goal=LIGHT), 10, "fires")
    # Nothing follows the only action, so nothing can fire after it.
    records = [*fires, *many(acts("take egg 1", goal=LIGHT), idle, "idle")]
    (skill,) = added(ask(OfflineCreator(TABLE), Evidence(SkillBank(), records)))
    assert skill.name == "use-the-lamp"
    assert skill.trigger == trigger


def test_says_nothing_without_enough_episodes_or_failures():
    creator = OfflineCreator(TABLE, min_records=20)
    few = [*many(MODES[4][1], 9, "f"), *wins()]
    assert creator.propose(Evidence(SkillBank(), few)) is None
    all_won = many(WIN, 30, "w")
    assert creator.propose(Evidence(SkillBank(), all_won)) is None


def test_same_evidence_same_proposal_after_a_round_trip():
    seen = evidence(MODES[4][1])
    again = replace(
        seen,
        records=[
            decode(EpisodeRecord, json.loads(json.dumps(encode(r))))
            for r in seen.records
        ],
        seed=99,
    )
    creator = OfflineCreator(TABLE)
    creator.restore(OfflineCreator(TABLE).state())
    assert ask(creator, again) == ask(OfflineCreator(TABLE), seen)


def test_rejected_rules_wait_and_then_come_in_other_words():
    seen = evidence(MODES[2][1], step=10)
    creator = OfflineCreator(TABLE)
    first = ask(creator, seen)
    after = judge(seen, first, accepted=False)
    waiting = creator.propose(after)
    assert waiting is None or "use-the-lamp" not in names(waiting)
    later = replace(after, step=after.history[-1].step + creator.limits.cooldown_steps)
    second = ask(creator, later)
    assert names(second) == ["use-the-lamp"]
    rule = RULES["use-the-lamp"]
    skills = [added(proposal)[0] for proposal in (first, second)]
    texts = [(skill.when_to_use, skill.action) for skill in skills]
    assert texts == [rule.wordings[0], rule.wordings[1]]


def test_alternatives_follow_in_order_when_all_are_rejected():
    seen = evidence(MODES[7][1])
    tried = []
    for _ in range(4):
        proposal = OfflineCreator(TABLE).propose(seen)
        if proposal is None:
            break
        tried.append(names(proposal))
        seen = judge(seen, proposal, accepted=False, steps=1)
    assert tried[:2] == [
        ["take-it-on-sight", "open-what-is-closed"],
        ["search-new-places"],
    ]
    flat = [name for bundle in tried for name in bundle]
    assert len(set(flat)) == len(flat)


@pytest.mark.parametrize("verdict", [True, False, None])
@pytest.mark.parametrize("max_skills", [8, 2])
def test_every_proposal_of_a_long_run_passes_and_none_repeats(verdict, max_skills):
    records = [r for _, episode, _ in MODES for r in many(episode, 4, f"{id(episode)}")]
    seen = Evidence(SkillBank(), [*records, *wins()], max_skills=max_skills)
    limits = OfflineCreator(TABLE).limits
    last_rejected: dict[str, int] = {}
    for cycle in range(24):
        proposal = OfflineCreator(TABLE).propose(seen)
        if proposal is None:
            seen = replace(seen, step=seen.step + 5)
            continue
        assert isinstance(verify(proposal, seen), Verified)
        accepted = cycle % 3 == 0 if verdict is None else verdict
        for name in names(proposal):
            # Deleting to make room is not what was judged.
            if name.startswith("Delete") and len(proposal.operations) > 1:
                continue
            assert seen.step - last_rejected.get(name, -99) >= limits.cooldown_steps
            if not accepted:
                last_rejected[name] = seen.step + 5
        seen = judge(seen, proposal, accepted)
        assert len(seen.bank.skills) <= max_skills


def test_full_bank_swaps_the_least_used_skill():
    used, unused = HARMFUL[0].skill(), HARMFUL[1].skill()
    bank = SkillBank((used, unused))
    tallies = [Tally(bank.hash, 0, 10, 5, Counter({used.name: 9, unused.name: 2}))]
    seen = evidence(MODES[2][1], bank=bank, tallies=tallies, max_skills=2)
    proposal = ask(OfflineCreator(TABLE), seen)
    assert names(proposal) == ["Delete look-around-again", "use-the-lamp"]
    assert proposal.reasons[0] == "the bank is full"


def test_followed_rule_is_left_alone_and_an_unfollowed_one_reworded():
    rule = RULES["use-the-lamp"]
    bank = SkillBank((rule.skill(),))
    creator = OfflineCreator(TABLE)
    seen = evidence(MODES[2][1], bank=bank)
    proposal = ask(creator, seen)
    when_to_use, action = rule.wordings[1]
    assert proposal.operations == (
        Modify(rule.name, {"when_to_use": when_to_use, "action": action}),
    )
    seen = judge(seen, proposal, accepted=True)
    third = ask(creator, seen)
    when_to_use, action = rule.wordings[2]
    assert third.operations == (
        Modify(rule.name, {"when_to_use": when_to_use, "action": action}),
    )
    assert creator.propose(judge(seen, third, accepted=True)) is None
    lit = acts(SHELF, TAKE, "use desklamp 1", goal=LIGHT)
    assert creator.propose(evidence(lit, bank=bank)) is None


NARROW = Skill("narrow", "d", "w", "a", Trigger("action_pattern", "^fly "))


def test_skill_that_never_fires_is_shown_always_and_dropped_if_that_fails():
    bank = SkillBank((NARROW,))
    tallies = [Tally(bank.hash, 0, 30, 10)]
    seen = evidence(MODES[2][1], bank=bank, tallies=tallies)
    creator = OfflineCreator(TABLE)
    first = ask(creator, seen)
    assert first.operations == (Modify("narrow", {"trigger": Trigger()}),)
    assert first.evidence == ("narrow fired in none of 30 episodes",)
    second = ask(creator, judge(seen, first, accepted=False))
    assert second.operations == (Delete("narrow"),)
    firing = [Tally(bank.hash, 0, 30, 10, Counter({"narrow": 1}))]
    assert names(ask(creator, replace(seen, tallies=firing))) == ["use-the-lamp"]
    few = [Tally(bank.hash, 0, 19, 10)]
    assert names(ask(creator, replace(seen, tallies=few))) == ["use-the-lamp"]


HURT = SkillBank((HARMFUL[0].skill(),))
BEFORE = SkillBank()


def hurting(with_it: int, without: int, *, played=100, accepted=True) -> Evidence:
    """Success counts of `played` episodes each on HURT and on the bank before it."""
    active_skills = Counter({HARMFUL[0].name: played})
    tallies = [
        Tally(BEFORE.hash, 1, played, without),
        Tally(HURT.hash, 2, played, with_it, active_skills),
    ]
    seen = evidence(MODES[2][1], bank=HURT, tallies=tallies, step=2)
    proposal = ask(OfflineCreator(TABLE), replace(seen, bank=BEFORE, tallies=()))
    past = PastTrial.judged(1, proposal, (BEFORE, HURT), accepted)
    return replace(seen, history=(past,))


# z of the pooled two-proportion test: 30 v 60 -> -4.26; 50 v 60 -> -1.42 (not 5%);
# 49 v 61 -> -1.71; 470 v 510 of 1000 -> -1.79, but only 4 points.
@pytest.mark.parametrize(
    ("with_it", "without", "played", "dropped"),
    [
        (30, 60, 100, True),
        (50, 60, 100, False),
        (49, 61, 100, True),
        (470, 510, 1000, False),
        (60, 30, 100, False),
        (0, 19, 19, False),
        (0, 0, 100, False),
        (100, 100, 100, False),
    ],
)
def test_skill_that_hurts_is_dropped(with_it, without, played, dropped):
    proposal = ask(OfflineCreator(TABLE), hurting(with_it, without, played=played))
    assert (proposal.operations == (Delete(HARMFUL[0].name),)) is dropped
    if dropped:
        assert f"success {with_it} of {played} with it" in proposal.evidence[0]


def test_drop_that_was_rejected_waits():
    seen = hurting(30, 60)
    first = ask(OfflineCreator(TABLE), seen)
    second = ask(OfflineCreator(TABLE), judge(seen, first, accepted=False))
    assert Delete(HARMFUL[0].name) not in second.operations


def test_rejected_candidates_say_nothing_about_the_bank():
    """A harmful candidate held the bank's skill too: it must not take the blame."""
    seen = hurting(60, 60)
    active_skills = Counter({HARMFUL[0].name: 100})
    candidate = Tally("candidate", 3, 100, 0, active_skills)
    proposal = ask(
        OfflineCreator(TABLE), replace(seen, tallies=[*seen.tallies, candidate])
    )
    assert names(proposal) == ["use-the-lamp"]


def test_unknown_games_get_advice_from_their_own_verbs():
    won = acts("focus on bulb", "connect wire 1 to bulb", "wait", success=True)
    lost = acts("focus on bulb", "wait", "wait")
    records = [
        *many(replace(won, goal="turn the bulb on."), 10, "w"),
        *many(replace(lost, goal="turn the bulb on."), 15, "f"),
    ]
    creator = OfflineCreator()
    proposal = ask(creator, Evidence(SkillBank(), records))
    assert names(proposal)[0] == "use-connect"
    assert added(proposal)[0].when_to_use == "You have not used 'connect' in this task."


@pytest.mark.parametrize(
    ("verdict", "dropped"),
    [("ignored", 1), ("internalised", 1), ("followed", 0), ("unclear", 0)],
)
def test_a_skill_that_changes_nothing_is_dropped_last_and_not_again(verdict, dropped):
    bank = SkillBank((RULES["take-it-on-sight"].skill(),))
    effect = SkillEffect("take-it-on-sight", 80, 0.001, 0.2, verdict)
    seen = replace(evidence(WIN, bank=bank), effects=(effect,))
    creator = OfflineCreator(TABLE)
    proposal = creator.propose(seen)
    wanted = (Delete("take-it-on-sight"),)
    if not dropped:
        assert proposal is None or proposal.operations != wanted
        return
    assert proposal.operations == wanted
    assert proposal.reasons == (f"take-it-on-sight is {verdict}",)
    assert proposal.evidence[0].startswith(f"take-it-on-sight: {verdict}: responses")
    assert creator.propose(judge(seen, proposal, accepted=False)) is None
    # What fails comes first.
    other = replace(evidence(MODES[2][1], bank=bank), effects=(effect,))
    assert names(ask(creator, other)) == ["use-the-lamp"]
