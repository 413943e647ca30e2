"""What a creator of somebody's own answers is checked; errors name its module."""

import pytest
from corridor_runs import corridor_config
from faulty_modules import FaultyCreator

from reskill_jax import build_strategy
from reskill_jax.creator.background import Background
from reskill_jax.creator.proposal import Evidence, Proposal, check_proposal
from reskill_jax.modules import ModuleError
from reskill_jax.skills.rule import RuleTable
from reskill_jax.skills.skill import SkillBank

EVIDENCE = Evidence(SkillBank(), ())


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("propose", "propose raised TypeError: propose returned 'write more': needs a"),
        ("propose raises", "propose raised KeyError: 'missing'"),
        ("metrics", r"take_metrics raised TypeError: metrics\['a'\]='b': needs a num"),
        ("creator state", r"state raised TypeError: state\(\)\.a is of type object"),
    ],
)
def test_a_mistake_names_module_and_method(tmp_path, fault, message):
    config = corridor_config("p", creator__name="faulty_modules")
    config.creator.prompts = fault

    def use():
        creator = build_strategy.make_creator(config, RuleTable(), tmp_path / "c", ())
        assert fault != "creator state"  # which is found when it is made
        creator.propose(EVIDENCE)
        creator.take_metrics()

    with pytest.raises(
        ModuleError, match=rf"^config\.creator\.name='faulty_modules': {message}"
    ):
        use()


def test_in_the_background_it_counts_as_an_error_of_the_creator():
    creator = Background(FaultyCreator("propose"), delay_steps=1)
    creator.propose(EVIDENCE)
    assert creator.propose(Evidence(SkillBank(), (), step=1)) is None
    assert creator.take_metrics()["creator/errors/internal"] == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"operations": "add"}, "operations='add'"),
        ({"operations": ("add",)}, r"operations=\('add',\)"),
        ({"reasons": (1,)}, "reasons"),
        ({"evidence": "text"}, "evidence"),
        ({"bank": None}, "bank=None"),
    ],
)
def test_parts_of_a_proposal_are_checked(changes, message):
    parts = {"operations": (), "reasons": (), "evidence": (), "bank": "hash"}
    check_proposal(Proposal(**parts))
    with pytest.raises(TypeError, match=f"a proposal's {message}"):
        check_proposal(Proposal(**parts | changes))
