"""Contexts that never change, and one plan of every strategy that can be named."""

import numpy as np
import pytest
from programs import get_config

from reskill_jax import build, build_strategy
from reskill_jax.environments.alfworld.rules import HELPFUL
from reskill_jax.environments.task import Task
from reskill_jax.memories.shelf import ChosenSkills
from reskill_jax.policy.tokenizer import Tokenizer
from reskill_jax.rollout.context import BankContext, EmptyContext
from reskill_jax.skills.skill import SkillBank
from reskill_jax.skills.skill_md import save_bank
from reskill_jax.strategies import STRATEGIES

BANK = SkillBank((HELPFUL[0].skill(),))


@pytest.fixture
def make(tmp_path):
    """Make a strategy of the smoke configuration, with the bank in a directory."""
    config = get_config()
    config.num_steps = 6
    save_bank(BANK, tmp_path / "bank")
    tokenizer = Tokenizer.load(build.policy_directory(config))

    def make(name, bank=False):
        config.strategy.name = name
        config.strategy.bank = str(tmp_path / "bank") if bank else ""
        environment = build.load_environment(config)
        prompts = build.make_prompts(config, environment, tokenizer)
        return build_strategy.make_strategy(
            config, environment, prompts, tmp_path / "calls"
        )

    return make


class Stream:
    """Tasks in order; knows how many were drawn."""

    drawn = 0

    def __call__(self, count):
        self.drawn += count
        first = self.drawn - count
        return [Task(f"t{first + k}", "kind", "train", "") for k in range(count)]


OURS = [
    name
    for name, (module, _) in STRATEGIES.items()
    if module.endswith((".reskill", ".static"))
]
WITHOUT = ("grpo", "react")


@pytest.mark.parametrize("name", OURS)
def test_every_strategy_plans_whole_groups_on_its_incumbent(make, name):
    """No trial is running yet, so all of them begin alike."""
    strategy = make(name, bank=name not in WITHOUT)
    draw = Stream()
    for step in (1, 2):
        plan = strategy.plan(step, draw)
        first = 2 * step - 2
        assert [task.id for task in plan.tasks] == [f"t{first}", f"t{first + 1}"]
        assert plan.contexts == (strategy.incumbent,)
        assert plan.arms.dtype == np.int32
        assert plan.arms.tolist() == [[0] * 4] * 2
        frozen = name == "skill_first" or not STRATEGIES[name][1].get("train", True)
        assert tuple(plan.training_groups) == (() if frozen else (0, 1))
    assert draw.drawn == 4
    wanted = EmptyContext() if name in WITHOUT else BankContext(BANK)
    if show := {"static_bm25": "bm25", "static_random": "random"}.get(name):
        wanted = ChosenSkills(BANK, show, 8, 42)
    assert strategy.incumbent == wanted


def test_what_never_changes_learns_nothing_and_knows_its_own_state(make):
    static, grpo = make("static", bank=True), make("grpo")
    for strategy in (static, grpo):
        learned = strategy.observe(1, [])
        assert (learned.events, learned.decisions) == ((), ())
        # What becomes of a bank is told, also where no skill can change any more.
        shown = {"skills/words", "skills/conditional"} if strategy is static else set()
        assert learned.metrics.keys() == shown
        strategy.restore(strategy.state())
    with pytest.raises(ValueError, match=f"{BANK.hash}, its content now .*'?empty"):
        grpo.restore(static.state())
    assert static.incumbent.bank == BANK


def test_a_bank_that_was_edited_is_not_taken_for_the_old_one(make, tmp_path):
    state = make("static", bank=True).state()
    make("static", bank=True).restore(state)
    path = tmp_path / "bank" / BANK.skills[0].name / "SKILL.md"
    path.write_text(path.read_text().replace(BANK.skills[0].action, "Wait."))
    with pytest.raises(ValueError, match="put the old files back"):
        make("static", bank=True).restore(state)
    # Where skills evolve, the accepted ones are part of the state.
    edited = make("reskill", bank=True)
    assert edited.incumbent != BankContext(BANK)
    fresh = tmp_path / "again"
    save_bank(BANK, fresh)
    (tmp_path / "bank").rename(tmp_path / "edited")
    fresh.rename(tmp_path / "bank")
    edited.restore(make("reskill", bank=True).state())
    assert edited.incumbent == BankContext(BANK)
