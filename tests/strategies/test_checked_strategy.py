"""What a strategy of somebody's own answers is checked; errors name its module."""

import pytest
from corridor_runs import corridor_config

from reskill_jax import build, build_strategy
from reskill_jax.environments.panels import TaskStream
from reskill_jax.modules import ModuleError
from reskill_jax.policy.tokenizer import train_tokenizer
from reskill_jax.termination import TerminatedError

TOKENIZER = train_tokenizer(["<action>right</action> door 3 after 1"] * 3, 300)


@pytest.fixture
def make(tmp_path):
    def make(mode, name="faulty_modules"):
        config = corridor_config("p", mode, strategy__name=name)
        environment, panels = build.load_tasks(config)
        prompts = build.make_prompts(config, environment, TOKENIZER)
        strategy = build_strategy.make_strategy(
            config, environment, prompts, tmp_path / "calls"
        )
        return strategy, TaskStream(panels.train, 0).draw

    return make


@pytest.mark.parametrize(
    ("mode", "message"),
    [
        ("state", r"state raised TypeError: state\(\)\.steps is of type int64"),
        ("state list", r"state raised TypeError: state returned \[\]: needs a dict"),
        ("incumbent", "incumbent raised TypeError: incumbent=None: needs a context"),
        (
            "incumbent json",
            r"incumbent raised TypeError: incumbent\.content is of type",
        ),
    ],
)
def test_what_cannot_be_saved_is_found_at_the_start(make, mode, message):
    with pytest.raises(
        ModuleError, match=rf"^config\.strategy\.name='faulty_modules': {message}"
    ):
        make(mode)


@pytest.mark.parametrize(
    ("mode", "message"),
    [
        ("plan none", "plan of step 4 raised TypeError: plan returned None: needs a P"),
        ("plan raises", "plan of step 4 raised AttributeError: "),
        ("context", r"plan of step 4 raised TypeError: contexts\[0\]='a bank': needs"),
        ("observe none", "observe of step 4 raised TypeError: observe returned None"),
        ("metric", r"observe of step 4 raised TypeError: metrics\['a'\]=array"),
        ("metric text", r"observe of step 4 raised TypeError: metrics\['a'\]='1': nee"),
        ("event", "observe of step 4 raised TypeError: events='a word': needs a tuple"),
        ("late state", r"state raised TypeError: state\(\)\.steps is of type int64"),
    ],
)
def test_a_mistake_names_module_method_and_step(make, mode, message):
    strategy, draw = make(mode)

    def step():
        strategy.plan(4, draw)
        strategy.observe(4, [])
        strategy.state()

    with pytest.raises(
        ModuleError, match=rf"^config\.strategy\.name='faulty_modules': {message}"
    ):
        step()


def test_what_is_right_passes_and_a_run_can_still_be_ended(make):
    strategy, draw = make("again", "corridor_strategies")
    assert len(strategy.plan(1, draw).tasks) == 3
    assert strategy.observe(1, []).metrics == {"test/unsolved": 0.0}
    state = strategy.state()
    assert state["planned"] == 1
    strategy.plan(2, draw)
    strategy.restore(state)
    assert strategy.state() == state

    def ended(count):
        raise TerminatedError("SIGTERM")

    with pytest.raises(TerminatedError):
        strategy.plan(2, ended)
