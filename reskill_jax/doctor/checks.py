"""Checks that cannot take each other down: each has a time limit and gives a finding.

    Check("disk", disk, needs=("policy",), limit_s=20)

A check is a function of the `Session`, which holds the run's configuration and the
parts that earlier checks have built. What it raises is a finding as well. A check that
hangs is left behind in its thread, and those that need it are not tried.
"""

import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

import jax
from ml_collections import ConfigDict

from reskill_jax.build import Policy, Tasks
from reskill_jax.grpo.optimizer import TrainState
from reskill_jax.policy.decoder import Params
from reskill_jax.policy.lora import Adapted
from reskill_jax.rollout.engine import Engine
from reskill_jax.terminal import activity
from reskill_jax.workdir import Workdir


class State(StrEnum):
    """What a check has found."""

    OK = "ok"
    SLOW = "slow"  # it works, but not as well as it should
    WRONG = "wrong"
    SKIPPED = "skipped"  # not part of this run, or it needs what is wrong


@dataclass(frozen=True)
class Finding:
    """What a check has found.

    Attributes:
        state: see `State`.
        text: what there is, in a line.
        way_out: what to do about it.
        trace: where it failed or hangs, for a report of a bug.
        check: name of the check.
        seconds: that it took.
    """

    state: State
    text: str
    way_out: str = ""
    trace: str = ""
    check: str = ""
    seconds: float = 0.0


def ok(text: str) -> Finding:
    """Find that all is well."""
    return Finding(State.OK, text)


def slow(text: str, way_out: str) -> Finding:
    """Find that it works, but not as well as it should."""
    return Finding(State.SLOW, text, way_out)


def wrong(text: str, way_out: str) -> Finding:
    """Find that it does not work."""
    return Finding(State.WRONG, text, way_out)


def skipped(text: str) -> Finding:
    """Find that there is nothing to check."""
    return Finding(State.SKIPPED, text)


@dataclass
class Session:
    """A run that is never written: its parts, as far as checks have built them.

    A check that uses a part needs the check that builds it.

    Attributes:
        config: of the run.
        workdir: of the run.
        resources: ends what checks have started.
        tasks: environment and panels.
        policy: its starting weights are gone after the first update.
        reference: the weights of the KL term, if there is one.
        state: what an update changes.
        engine: serves the policy.
        servers: addresses of the engine's, if it has any.
    """

    config: ConfigDict
    workdir: Workdir
    resources: ExitStack = field(default_factory=ExitStack)
    tasks: Tasks | None = None
    policy: Policy | None = None
    reference: Params | Adapted | None = None
    state: TrainState | None = None
    engine: Engine | None = None
    servers: Sequence[str] = ()


@dataclass(frozen=True)
class Check:
    """One check.

    Attributes:
        name: in a word or two.
        run: looks; whatever it raises is a finding.
        needs: names of earlier checks that must not have failed.
        limit_s: seconds that it may take.
    """

    name: str
    run: Callable[[Session], Finding]
    needs: tuple[str, ...] = ()
    limit_s: float = 60.0


def examine(session: Session, checks: Sequence[Check]) -> Iterator[Finding]:
    """Yield a finding for every check, in order."""
    failed: set[str] = set()
    for check in checks:
        if missing := [name for name in check.needs if name in failed]:
            finding = skipped(f"needs {', '.join(missing)}")
            failed.add(check.name)
        else:
            finding = _within_limit(session, check)
            if finding.state is State.WRONG:
                failed.add(check.name)
        yield replace(finding, check=check.name)


def _within_limit(session: Session, check: Check) -> Finding:
    """Run a check in a thread, which is left behind where it does not end."""
    found: list[Finding] = []

    def look() -> None:
        try:
            found.append(check.run(session))
        except BaseException as error:  # also SystemExit: others go on
            found.append(_raised(error))

    started = time.monotonic()
    thread = threading.Thread(target=look, name=f"check {check.name}", daemon=True)
    with activity(f"checking {check.name}"):
        thread.start()
        thread.join(check.limit_s)
    seconds = time.monotonic() - started
    if not found:
        frame = sys._current_frames().get(thread.ident or 0)
        where = traceback.format_stack(frame) if frame else []
        finding = wrong(
            f"hangs: no result in {check.limit_s:.0f} s",
            "the report tells where it waits; if it only needs longer, raise "
            "--check_seconds",
        )
        return replace(finding, trace="".join(where), seconds=seconds)
    return replace(found[0], seconds=seconds)


def _raised(error: BaseException) -> Finding:
    """Turn an error into a finding; the errors of this package say the way out."""
    trace = "".join(traceback.format_exception(error))
    while isinstance(error, ExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    text = str(error) or "no message"
    if not isinstance(error, ValueError | OSError | RuntimeError):
        text = f"{type(error).__name__}: {text}"
    way_out = "" if isinstance(error, ValueError) else "the report has the traceback"
    return Finding(State.WRONG, text, way_out, trace)


def several() -> bool:
    """Tell whether this is one of several processes, without asking for devices."""
    return bool(jax.distributed.is_initialized())


def part(value: Any) -> Any:
    """Return a part of a session that an earlier check has built.

    Raises:
        RuntimeError: the check does not name the one that builds it.
    """
    if value is None:
        raise RuntimeError("a part is missing: the check lacks a name in `needs`")
    return value
