"""Parts of a run by name: listed ones, and modules of one's own by dotted name."""

import re
import sys

import pytest

from reskill_jax import build, build_strategy
from reskill_jax.environments.registry import ENVIRONMENTS, environment_module
from reskill_jax.modules import ModuleError
from reskill_jax.strategies import STRATEGIES, find_strategy

FINDERS = pytest.mark.parametrize(
    ("find", "listed"),
    [
        (environment_module, ENVIRONMENTS),
        (find_strategy, STRATEGIES),
        (build_strategy.find_creator, build_strategy.CREATORS),
    ],
)


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Write modules of a package of one's own, which no other test sees."""
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "my_lab").mkdir()

    def write(name, text):
        (tmp_path / "my_lab" / f"{name}.py").write_text(text)

    yield write
    for name in [n for n in sys.modules if n.partition(".")[0] == "my_lab"]:
        del sys.modules[name]


@FINDERS
@pytest.mark.parametrize(
    "name",
    ["magic", "", ".", "..", ".grpo", "my_lab", "os.path.x", "my lab", "json.nothing"],
)
def test_a_name_of_nothing_is_refused_with_those_there_are(find, listed, name):
    if name == "my_lab":
        name = "my_lab.nothing"
    with pytest.raises(ValueError, match=re.escape(f"name={name!r}: ")) as caught:
        find(name)
    assert f"choose one of {', '.join(listed)}, or" in str(caught.value)


@FINDERS
def test_a_module_that_lacks_a_part_is_refused_by_its_name(find, listed, write):
    with pytest.raises(ValueError, match=r"name='json': the module json .* has no '"):
        find("json")
    write("half", "class Settings: pass\n")
    with pytest.raises(ValueError, match=r"'my_lab.half'.* has no '(load|make)'"):
        find("my_lab.half")


def test_an_environment_needs_settings_as_well(write):
    write("world", "def load(settings, *, workers): pass\n")
    with pytest.raises(ValueError, match="has no 'Settings'"):
        environment_module("my_lab.world")


@FINDERS
def test_what_a_module_of_ones_own_lacks_is_told_as_it_is(find, listed, write):
    """Not that there is no such module: there is, and its own import fails."""
    write("needs", "import my_la\n")  # the beginning of its own name
    raised = r"the import of this \w+ raised"
    with pytest.raises(
        ModuleError,
        match=rf"'my_lab\.needs': {raised} ModuleNotFoundError: .* 'my_la'",
    ):
        find("my_lab.needs")
    write("broken", "raise TypeError('its own fault')\n")
    with pytest.raises(
        ModuleError, match=rf"'my_lab\.broken': {raised} TypeError: its own fault"
    ):
        find("my_lab.broken")


def test_a_module_that_needs_an_extra_says_which(write, monkeypatch):
    write("asks", "import tenacity\n")
    monkeypatch.setitem(sys.modules, "tenacity", None)
    wanted = "name='my_lab.asks' needs tenacity: pip install '.[llm]'"
    with pytest.raises(ValueError, match=re.escape(wanted)):
        build_strategy.find_creator("my_lab.asks")
    for name in [n for n in sys.modules if n.startswith("reskill_jax.environments.se")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "aiohttp", None)
    wanted = "name='search' needs aiohttp: pip install '.[search]'"
    with pytest.raises(ValueError, match=re.escape(wanted)):
        environment_module("search")


def test_dotted_names_are_modules(write):
    write("world", "Settings = 1\nload = 2\n")
    assert environment_module("my_lab.world").load == 2
    listed = environment_module("alfworld")
    assert environment_module(ENVIRONMENTS["alfworld"]) is listed
    write("method", "def make(setup, **switches): return setup, switches\n")
    assert find_strategy("my_lab.method")("a setup") == ("a setup", {})
    assert build_strategy.find_creator("my_lab.method").make(3) == (3, {})


def test_the_keys_of_an_environment_go_to_its_settings():
    from corridor_runs import corridor_config

    config = corridor_config("p", env__train=5, env__held_out=7)
    environment = build.load_environment(config)
    config.eval.max_tasks = 3
    panels = build.load_panels(config, environment)
    assert [task.id for task in panels.train] == [f"train/{k}" for k in range(5)]
    assert [t.id for t in panels.held_out["held_out"]] == [
        "held_out/0",
        "held_out/2",
        "held_out/4",
    ]
    config.env.train = 0
    with pytest.raises(ValueError, match="train=0: must be 1 or more"):
        build.load_environment(config)
    config.env.train = 1
    config.eval.splits = ("test",)
    with pytest.raises(ValueError, match="split='test': choose train or held_out"):
        build.load_panels(config, environment)
