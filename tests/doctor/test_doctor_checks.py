"""One failing or hanging check never stops the others."""

import threading

import pytest
from corridor_runs import corridor_config

from reskill_jax.doctor.checks import Check, Session, State, examine, ok, part, wrong
from reskill_jax.doctor.report import row
from reskill_jax.workdir import Workdir


@pytest.fixture
def session(tmp_path):
    return Session(corridor_config("random:tiny"), Workdir(tmp_path / "run"))


def found(session, *checks):
    return {finding.check: finding for finding in examine(session, checks)}


def test_a_check_that_hangs_is_left_behind(session):
    never = threading.Event()

    def waits_forever(session):
        never.wait()

    findings = found(
        session,
        Check("hanging", waits_forever, limit_s=0.2),
        Check("after", lambda session: ok("well")),
    )
    never.set()
    assert findings["hanging"].state is State.WRONG
    assert "no result in 0 s" in findings["hanging"].text
    assert "waits_forever" in findings["hanging"].trace
    assert "--check_seconds" in findings["hanging"].way_out
    assert findings["after"].state is State.OK


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ValueError("size=3: choose 2"), "size=3: choose 2"),
        (KeyError("x"), "KeyError: 'x'"),
        (SystemExit("gone"), "SystemExit: gone"),
        (ExceptionGroup("several", [OSError("disk")]), "disk"),
        (RuntimeError(), "no message"),
    ],
)
def test_whatever_a_check_raises_is_a_finding(session, error, text):
    def raises(session):
        raise error

    findings = found(
        session,
        Check("raising", raises),
        Check("after", lambda session: ok("well")),
    )
    assert findings["raising"].state is State.WRONG
    assert findings["raising"].text == text
    assert "Traceback" in findings["raising"].trace
    assert findings["after"].state is State.OK


def test_what_needs_a_failed_check_is_not_tried(session):
    def never(session):
        raise AssertionError("it was tried")

    findings = found(
        session,
        Check("first", lambda session: wrong("broken", "mend it")),
        Check("second", never, needs=("first",)),
        Check("third", never, needs=("second",)),
        Check("other", lambda session: ok("well")),
    )
    assert [f.state for f in findings.values()] == ["wrong", "skipped", "skipped", "ok"]
    assert findings["third"].text == "needs second"
    assert "-> mend it" in row(findings["first"])


def test_the_table_shows_all_that_an_error_names(session):
    """Errors of the configuration have a line for every key, after one that says so."""

    def raises(session):
        raise ValueError("it cannot run:\n  config.a=1: no\n\n  config.b=2: \x1b[31mno")

    shown = row(found(session, Check("configuration", raises))["configuration"])
    first, *below = shown.splitlines()
    assert first.endswith("it cannot run:")
    assert [line.strip() for line in below[:1]] == ["config.a=1: no"]
    assert "config.b=2" in below[1]
    assert "\x1b" not in shown
    many = row(wrong("ended\n" + "\n".join(map(str, range(50))), "mend it"))
    assert many.splitlines()[-2:] == [f"{'':>33}49", f"{'':>33}-> mend it"]
    assert len(many.splitlines()) < 20


def test_a_check_that_forgot_what_it_needs_is_named(session):
    findings = found(session, Check("policy", lambda s: ok(str(part(s.policy)))))
    assert "lacks a name in `needs`" in findings["policy"].text
