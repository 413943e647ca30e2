"""Failure modes: what counts, who is blamed, in which order."""

import pytest
from text_episodes import acts, many

from reskill_jax.creator.diagnosis import diagnose
from reskill_jax.skills.assertions import Assertion
from reskill_jax.skills.checks import ActionExists

A = Assertion(ActionExists("^a$"), "a")
B = Assertion(ActionExists("^b$"), "b")


def find(assertions, records, min_support=0.05, min_lift=1.3):
    return diagnose(assertions, records, min_support=min_support, min_lift=min_lift)


def test_figures_are_those_of_the_definition():
    records = [
        *many(acts("a"), 2, "fail-b"),
        *many(acts("b"), 6, "fail-a"),
        *many(acts("a", "b", success=True), 8, "win"),
    ]
    findings = find([A, B], records)
    assert [finding.assertion.id for finding in findings] == ["a", "b"]
    assert [finding.support for finding in findings] == [6 / 8, 2 / 8]
    # (6 + 1) / (8 + 2) over (0 + 1) / (8 + 2), and (2 + 1) / (8 + 2) over the same.
    assert [finding.lift for finding in findings] == pytest.approx([7.0, 3.0])
    assert [finding.blamed for finding in findings] == [6, 2]
    assert "failed by 75% of failed episodes, 7.0 times" in str(findings[0])


def test_the_first_failed_assertion_takes_the_blame():
    records = [
        *many(acts("x"), 5, "fail-both"),
        *many(acts("a"), 2, "fail-b"),
        *many(acts("a", "b", success=True), 8, "win"),
    ]
    blamed = {f.assertion.id: f.blamed for f in find([A, B], records)}
    assert blamed == {"a": 5, "b": 2}
    blamed = {f.assertion.id: f.blamed for f in find([B, A], records)}
    assert blamed == {"b": 7}  # a is left without blame and thus no finding


def test_what_successes_fail_as_often_is_no_failure_mode():
    records = [
        *many(acts("b"), 10, "fail"),
        *many(acts("b", success=True), 10, "win"),
    ]
    assert find([A], records) == []
    assert len(find([A], records, min_lift=1.0)) == 1


def test_rare_failures_are_left_out():
    records = [*many(acts("b"), 1, "fail-a"), *many(acts("a"), 19, "fail")]
    assert len(find([A], records, min_support=0.05, min_lift=0.0)) == 1
    assert find([A], records, min_support=0.06, min_lift=0.0) == []


def test_few_episodes_prove_little():
    # (1 + 1) / (1 + 2) over 1 / 2 = 4/3; with ten failures 11/12 over 1/2 = 11/6.
    assert find([A], many(acts("b"), 1, "f"), min_lift=1.4) == []
    assert find([A], many(acts("b"), 10, "f"), min_lift=1.8)[0].blamed == 10


def test_assertions_that_do_not_apply_blame_nobody():
    scoped = Assertion(ActionExists("^a$"), "a", goal="hot")
    assert find([scoped], many(acts("b", goal="put it."), 10, "f")) == []


def test_nothing_to_diagnose():
    assert find([A], []) == []
    assert find([A], many(acts("b", success=True), 10, "win")) == []
