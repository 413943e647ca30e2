"""Runs a slow creator beside training.

A proposal is made in a thread while training goes on, at most one at a time. It is used
at the first step at which it is ready or, for runs that can be repeated, exactly so
many steps after it was asked for.
"""

import threading
from collections.abc import Mapping
from typing import Any

from absl import logging

from reskill_jax.codec import decode, encode
from reskill_jax.creator.proposal import (
    PENDING,
    Creator,
    Evidence,
    Pending,
    Proposal,
    check_proposal,
)


class _Job(threading.Thread):
    """Makes one proposal; a daemon, so that a program can end before it."""

    def __init__(self, creator: Creator, evidence: Evidence):
        super().__init__(name="creator", daemon=True)
        self._creator = creator
        self.evidence = evidence
        self.proposal: Proposal | None = None
        self.error: Exception | None = None
        self.start()

    def run(self) -> None:
        """Make the proposal; an error is kept for the thread that asked."""
        try:
            proposal = self._creator.propose(self.evidence)
            check_proposal(proposal)
            assert not isinstance(proposal, Pending), "a Background of a Background"
            self.proposal = proposal
        except Exception as error:
            self.error = error


class Background:
    """A creator that answers at once: with a proposal, None or `PENDING`.

    Args:
        creator: makes the proposals; its `propose` may be slow.
        delay_steps: use a proposal exactly so many steps after it was asked for,
            waiting for it if need be; 0: as soon as it is ready, never waiting.
    """

    def __init__(self, creator: Creator, delay_steps: int = 0):
        self._creator = creator
        self._delay_steps = delay_steps
        self._job: _Job | None = None
        self._before: dict[str, Any] = {}  # the creator's state when the job began
        self._unfinished: Evidence | None = None  # asked for before a restart
        self._news: dict[str, float] = {}

    def propose(self, evidence: Evidence) -> Proposal | Pending | None:
        """Return the proposal that is due; if none is being made, ask for one.

        A proposal for a bank that is no longer `evidence.bank` is dropped and the next
        one is asked for. An error of the creator is logged and counted, not raised:
        training goes on, and the strategy asks again later.
        """
        if self._job is None:
            self._begin(self._unfinished or evidence)
        assert self._job is not None
        if not self._due(self._job, evidence.step):
            return PENDING
        job, self._job = self._job, None
        if job.error is not None:
            logging.error("the creator failed", exc_info=job.error)
            self._count("creator/errors")
            self._count("creator/errors/internal")
            return None
        if job.evidence.bank != evidence.bank:
            self._count("creator/stale_proposals")
            self._begin(evidence)
            return PENDING
        return job.proposal

    def take_metrics(self) -> dict[str, float]:
        """Return what was counted since the last call, and whether a job is running.

        With `delay_steps` the cost of a proposal is reported when it is used, so that
        metrics can be repeated too.
        """
        news, self._news = self._news, {}
        if self._job is None or not self._delay_steps:
            for key, value in self._creator.take_metrics().items():
                news[key] = news.get(key, 0.0) + value
        return news | {"creator/pending": float(self._job is not None)}

    def state(self) -> dict[str, Any]:
        """Return the creator's state before the job began, and what it works on."""
        evidence = self._job.evidence if self._job else self._unfinished
        return {
            "creator": self._before if self._job else self._creator.state(),
            "unfinished": encode(evidence),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` returned; unfinished work begins anew when asked."""
        self._creator.restore(state["creator"])
        self._unfinished = decode(
            Evidence | None, state["unfinished"], name="unfinished"
        )

    def _begin(self, evidence: Evidence) -> None:
        self._unfinished = None
        self._before = self._creator.state()
        self._job = _Job(self._creator, evidence)

    def _due(self, job: _Job, step: int) -> bool:
        if self._delay_steps:
            if step < job.evidence.step + self._delay_steps:
                return False
            job.join()
        return not job.is_alive()

    def _count(self, key: str) -> None:
        self._news[key] = self._news.get(key, 0.0) + 1.0
