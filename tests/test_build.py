"""What does not fit model or devices is refused by key before weights are read."""

import os
import sys
from dataclasses import make_dataclass

import faulty_modules
import pytest
from corridor_runs import corridor_config
from programs import HELPERS, TWO_DEVICES, get_config, save_random_policy, start

from reskill_jax import build
from reskill_jax.modules import ModuleError
from reskill_jax.policy.ops.attention import check_row_lengths
from reskill_jax.policy.tokenizer import Tokenizer


@pytest.fixture
def config(tmp_path):
    """The smoke run of a policy whose weights are not there."""
    save_random_policy(tmp_path / "policy")
    (tmp_path / "policy" / "model.safetensors").unlink()
    config = get_config()
    config.policy.path = str(tmp_path / "policy")
    return config


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"mesh.fsdp": 3},
            r"config\.mesh=.*fsdp=3.* does not fit 1 devices.*Flags --config\.mesh",
        ),
        (
            {"prompt.max_tokens": 10**6},
            r"config\.prompt\.max_tokens \+ config\.rollout\.max_tokens = 1000016, but",
        ),
        (
            {"policy.attention": "cudnn"},
            r"config\.policy\.attention='cudnn' is for GPUs",
        ),
        (
            {"policy.attention": "splash", "grpo.buckets": (256, 700)},
            r"config\.grpo\.buckets=\(256, 700\): .* multiples of 128, not 700",
        ),
    ],
)
def test_what_cannot_be_computed_is_refused_first(config, changes, message):
    config.update_from_flattened_dict(changes)
    with pytest.raises(ValueError, match=message):
        build.load_policy(config)


def test_rows_that_devices_cannot_share_are_refused(config):
    """Heads cannot be split: there is one for keys, so that rows are."""
    code = """
import sys
from programs import get_config
from reskill_jax import build
from reskill_jax.modules import ModuleError
config = get_config()
config.policy.path, config.mesh.fsdp, config.engine.decode_rows = sys.argv[1], 2, 3
build.load_policy(config)
"""
    done = start(
        sys.executable, "-c", code, config.policy.path,
        env=os.environ | TWO_DEVICES | HELPERS,
    )  # fmt: skip
    assert "ValueError: config.engine.decode_rows=3 cannot be split" in done.stderr


def test_a_budget_that_the_fixed_text_takes_is_refused_by_its_key(config):
    config.prompt.max_tokens = 64
    config.prompt.wording = "full"
    tokenizer = Tokenizer.load(config.policy.path)
    environment = build.load_environment(config)
    with pytest.raises(ValueError, match=r"^config\.prompt\.max_tokens=64 is too"):
        build.make_prompts(config, environment, tokenizer)


@pytest.mark.parametrize(
    ("backend", "right", "wrong"),
    [("splash", (128, 640), 200), ("cudnn", (2, 700), 701), ("xla", (1, 701), None)],
)
def test_lengths_of_rows_are_those_that_attention_computes(backend, right, wrong):
    check_row_lengths(right, backend)
    if wrong:
        with pytest.raises(ValueError, match=rf"^buckets=.*, not {wrong}: change"):
            check_row_lengths((*right, wrong), backend)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("none", "load raised TypeError: it returned None: needs an EnvironmentSpec"),
        ("raise", "load raised KeyError: 'letters'"),
        ("make", "load raised TypeError: make=.* cannot be sent to worker processes"),
        (
            "panel",
            r"panel\('train', None\) raised TypeError: it returned \[\]: needs a",
        ),
        ("raising panel", r"panel\('held_out', None\) raised KeyError: 'held_out'"),
    ],
)
def test_a_mistake_of_an_environments_module_names_it(fault, message):
    config = corridor_config("p", env__name="faulty_modules")
    config.env.fault = fault
    config.eval.max_tasks = None
    with pytest.raises(
        ModuleError, match=rf"^config\.env\.name='faulty_modules': {message}"
    ):
        build.load_tasks(config)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"evolve_from": "dev"}, r"evolve_from='dev': split='dev': choose"),
        (
            {"evolve_from": "paper", "reported_split": "test"},
            r"reported_split='test': split='test': choose",
        ),
    ],
)
@pytest.mark.parametrize("name", ["skillrl", "skillrl_frozen"])
def test_a_split_that_a_strategy_lacks_is_refused_by_its_key(name, keys, message):
    config = corridor_config("p", strategy__name=name)
    config.strategy.skillrl.update(keys)
    with pytest.raises(ValueError, match=rf"^config\.strategy\.skillrl\.{message}"):
        build.load_tasks(config)
    config.strategy.name = "grpo"  # which has none
    build.load_tasks(config)


def test_settings_that_environments_share_are_refused_as_their_own(monkeypatch):
    config = corridor_config("p", env__name="faulty_modules")
    shared = make_dataclass("Settings", [("workers", int, 8), ("timeout_s", float, 1)])
    monkeypatch.setattr(faulty_modules, "Settings", shared)
    with pytest.raises(ValueError, match=r"have \['timeout_s', 'workers'\], which all"):
        build.load_environment(config)


def test_a_split_without_tasks_is_left_out_with_a_word(caplog):
    config = corridor_config("p", env__name="faulty_modules")
    config.env.fault = "empty split"
    with caplog.at_level("WARNING"):
        assert not build.load_tasks(config).panels.held_out
    assert "the split held_out has no tasks: nothing is evaluated on it" in caplog.text


def test_a_split_that_is_not_there_is_refused_by_its_key():
    config = corridor_config("p", eval__splits=("held_out", "test"))
    with pytest.raises(
        ValueError, match=r"^config\.eval\.splits: split='test': choose"
    ):
        build.load_tasks(config)
