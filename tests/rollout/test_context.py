"""Contexts as documents: what processes tell each other and checkpoints keep."""

import json
from dataclasses import replace

import pytest
from library_context import SKILL, Library

from reskill_jax.rollout.context import (
    BankContext,
    EmptyContext,
    context_kind,
    context_to_json,
    open_context,
)
from reskill_jax.skills.skill import SkillBank


def test_contexts_survive_as_documents():
    bank = SkillBank((SKILL, replace(SKILL, name="other")))
    for context in (EmptyContext(), BankContext(SkillBank()), BankContext(bank)):
        document = json.loads(json.dumps(context_to_json(context)))
        again = open_context(document, {})
        assert again == context
        assert again.hash == context.hash
    assert BankContext(bank).hash == bank.hash != BankContext(SkillBank()).hash


def test_a_context_gets_its_resources_when_it_is_opened():
    shelf = {"a": 1}
    document = json.loads(json.dumps(context_to_json(Library("x"))))
    assert document == {"kind": "test/library", "content": {"opening": "x"}}
    again = open_context(document, {"shelf": shelf, "other": None})
    assert again.shelf is shelf
    assert again.hash == Library("x").hash != Library("xy").hash


def test_an_unknown_kind_is_refused():
    with pytest.raises(ValueError, match=r"kind 'magic' is unknown: .*'empty', 'bank'"):
        open_context({"kind": "magic", "content": None}, {})


def test_one_kind_is_one_class():
    with pytest.raises(ValueError, match=r"context kind 'bank' is .*BankContext"):

        @context_kind("bank")
        class Other:
            pass

    assert open_context(context_to_json(BankContext(SkillBank())), {}) == BankContext(
        SkillBank()
    )


def test_a_module_that_is_loaded_again_gives_its_newest_class():
    def load():
        @context_kind("test/twice")
        class Twice:
            @classmethod
            def from_json(cls, document, resources):
                return cls()

        return Twice

    first, second = load(), load()
    assert first.kind == second.kind == "test/twice"
    document = {"kind": "test/twice", "content": None}
    assert type(open_context(document, {})) is second is not first
