"""Training never waits: pending, ready, dropped, failed, resumed."""

import json
import threading
import time
from dataclasses import replace

import pytest
from text_episodes import acts, many

from reskill_jax.codec import decode, encode
from reskill_jax.creator.background import Background
from reskill_jax.creator.proposal import (
    PENDING,
    Evidence,
    PastTrial,
    Proposal,
)
from reskill_jax.creator.reservoir import Reservoir
from reskill_jax.environments.alfworld.rules import HARMFUL, HELPFUL
from reskill_jax.laboratory.known_proposals import Injecting, addition
from reskill_jax.skills.contrast import Contrast
from reskill_jax.skills.effects import SkillEffect
from reskill_jax.skills.skill import SkillBank

RECORDS = tuple(many(acts("go to a", "look"), 3, "t"))
EVIDENCE = Evidence(SkillBank(), RECORDS, step=1)


class Slow:
    """Proposes rule after rule, each when the test lets it."""

    def __init__(self):
        self.gate = threading.Semaphore(0)
        self.asked: list[Evidence] = []
        self.made = 0
        self.metrics: dict[str, float] = {}
        self.error: Exception | None = None

    def propose(self, evidence):
        self.asked.append(evidence)
        self.gate.acquire()
        if self.error is not None:
            raise self.error
        rule = HELPFUL[self.made]
        self.made += 1
        self.metrics["creator/calls"] = self.metrics.get("creator/calls", 0) + 1
        return replace(addition(rule), bank=evidence.bank.hash)

    def take_metrics(self):
        metrics, self.metrics = self.metrics, {}
        return metrics

    def state(self):
        return {"made": self.made}

    def restore(self, state):
        self.made = state["made"]


def finish(slow: Slow, background: Background) -> None:
    """Let the job end and wait until its thread has."""
    slow.gate.release()
    for thread in threading.enumerate():
        if thread.name == "creator":
            thread.join(10)


def at(step: int, bank=None) -> Evidence:
    return replace(EVIDENCE, step=step, bank=bank or SkillBank())


def test_it_answers_at_once_and_hands_over_when_ready():
    slow = Slow()
    background = Background(slow)
    started = time.monotonic()
    assert [background.propose(at(step)) for step in (1, 2, 3)] == [PENDING] * 3
    assert time.monotonic() - started < 5
    assert background.take_metrics() == {"creator/pending": 1.0}
    finish(slow, background)
    assert [evidence.step for evidence in slow.asked] == [1]
    proposal = background.propose(at(4))
    assert isinstance(proposal, Proposal)
    assert proposal.operations == addition(HELPFUL[0]).operations
    assert background.take_metrics() == {"creator/calls": 1.0, "creator/pending": 0.0}
    assert background.propose(at(5)) is PENDING
    slow.gate.release()


def test_a_proposal_for_a_bank_that_has_changed_is_dropped_and_asked_for_anew():
    slow = Slow()
    background = Background(slow)
    background.propose(at(1))
    finish(slow, background)
    other = SkillBank((HELPFUL[5].skill(),))
    assert background.propose(at(2, other)) is PENDING
    assert background.take_metrics()["creator/stale_proposals"] == 1
    finish(slow, background)
    proposal = background.propose(at(3, other))
    assert isinstance(proposal, Proposal)
    assert proposal.bank == other.hash
    assert [evidence.step for evidence in slow.asked] == [1, 2]


def test_an_error_is_counted_and_the_next_request_tries_again():
    slow = Slow()
    slow.error = RuntimeError("a bug")
    background = Background(slow)
    background.propose(at(1))
    finish(slow, background)
    assert background.propose(at(2)) is None
    assert background.take_metrics() == {
        "creator/errors": 1.0,
        "creator/errors/internal": 1.0,
        "creator/pending": 0.0,
    }
    slow.error = None
    assert background.propose(at(3)) is PENDING
    finish(slow, background)
    assert isinstance(background.propose(at(4)), Proposal)


def test_a_fixed_offset_waits_neither_less_nor_more():
    slow = Slow()
    background = Background(slow, delay_steps=2)
    assert background.propose(at(1)) is PENDING
    finish(slow, background)
    assert background.propose(at(2)) is PENDING  # though it is ready
    assert background.take_metrics() == {"creator/pending": 1.0}
    assert isinstance(background.propose(at(3)), Proposal)
    assert background.take_metrics() == {"creator/calls": 1.0, "creator/pending": 0.0}
    assert background.propose(at(4)) is PENDING
    threading.Timer(0.2, slow.gate.release).start()
    assert isinstance(background.propose(at(6)), Proposal)  # waits for it


@pytest.mark.parametrize("delay_steps", [0, 2])
def test_what_was_under_way_is_asked_for_anew_after_a_restart(delay_steps):
    slow = Slow()
    background = Background(slow, delay_steps)
    background.propose(at(1))
    slow.gate.release(2)
    while slow.made == 0:  # ended, not taken up yet
        time.sleep(0.001)
    state = json.loads(json.dumps(background.state()))
    assert state["creator"] == {"made": 0}
    again = Slow()
    resumed = Background(again, delay_steps)
    resumed.restore(state)
    assert not again.asked  # looking at a run asks nobody
    assert json.loads(json.dumps(resumed.state())) == state
    assert resumed.propose(at(2)) is PENDING
    finish(again, resumed)
    assert again.asked == [at(1)]
    assert resumed.propose(at(3)) == background.propose(at(3))


def test_evidence_survives_json():
    reservoir = Reservoir()
    reservoir.add(many(acts("look", active_skills=("a",), step=3), 2, "t"))
    bank = SkillBank((HELPFUL[0].skill(),))
    proposal = addition(HELPFUL[1])
    found = Contrast(0.25, 0.1, 0.9)
    past = PastTrial.judged(2, proposal, (SkillBank(), bank), True, found)
    effects = (SkillEffect("a", 50, 0.2, 0.3, "followed"),)
    evidence = Evidence(
        bank, reservoir.records(3), reservoir.tallies(3), (past,), 5, 3, 9, effects
    )
    assert decode(Evidence, json.loads(json.dumps(encode(evidence)))) == evidence


def test_injected_proposals_do_not_count_the_waiting():
    slow = Slow()
    mixed = Injecting(Background(slow), 2, [addition(HARMFUL[0])])
    assert [mixed.propose(at(step)) for step in (1, 2, 3)] == [PENDING] * 3
    for thread in threading.enumerate():
        if thread.name == "creator":
            slow.gate.release()
            thread.join(10)
    assert mixed.propose(at(4)).operations == addition(HELPFUL[0]).operations
    assert mixed.propose(at(5)).operations == addition(HARMFUL[0]).operations
    assert mixed.take_metrics()["creator/calls"] == 1
