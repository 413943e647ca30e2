"""The configuration's section, refused by name where it cannot work."""

import importlib.util
import re
import sys
from pathlib import Path

import pytest

from reskill_jax import build_strategy
from reskill_jax.skills.rule import RuleTable
from reskill_jax.validate import validate

pytest.importorskip("openai", reason="needs the extra llm: pip install '.[llm]'")

CONFIG = Path(__file__).parents[2] / "configs" / "alfworld.py"


@pytest.fixture
def config(monkeypatch):
    spec = importlib.util.spec_from_file_location("alfworld_config", CONFIG)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config = module.get_config("smoke")
    config.creator.name = "openai"
    config.creator.llm.name = "m"
    monkeypatch.setenv("OPENAI_API_KEY", "the-key")
    return config


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("name", "oracle", "config.creator.name='oracle': choose one of offline"),
        ("name", "replay", "config.creator.name='replay': replay='': no such file"),
        ("llm.name", "", "config.creator.llm.name='': name='openai' needs the name of"),
        ("llm.api_key_variable", "NO_SUCH", "variable NO_SUCH holds no key"),
        ("llm.base_url", "http://me:pass@host", "the address holds credentials"),
        (
            "llm.timeout_s",
            0.0,
            "creator.llm.timeout_s=0.0: must be a finite number, 1 or more",
        ),
        (
            "budget.run_dollars",
            5.0,
            "config.creator.budget.run_dollars=5.0 needs input_price",
        ),
        (
            "budget.run_calls",
            -1,
            "config.creator.budget.run_calls=-1: must be 0 or more",
        ),
        ("retry.max_attempts", 0, "config.creator.retry.max_attempts=0: must be 1"),
        ("prompts", "/nowhere", "'/nowhere' is not a directory of prompts"),
        ("delay_steps", -1, "config.creator.delay_steps=-1: must be an integer, 0"),
        (
            "max_concurrency",
            0,
            "config.creator.max_concurrency=0: must be an integer, 1",
        ),
    ],
)
def test_settings_that_cannot_work_are_refused_by_name(config, key, value, message):
    validate(config)
    config.update_from_flattened_dict({f"creator.{key}": value})
    with pytest.raises(ValueError, match=re.escape(message)):
        validate(config)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        (
            "engine.name",
            "jax",
            "config.creator.name='sidecar': the engine 'jax' has no",
        ),
        ("creator.llm.base_url", "http://x", "url='http://x': the engine says where"),
        (
            "creator.llm.timeout_s",
            300.0,
            "config.creator.llm.timeout_s=300: new weights wait",
        ),
    ],
)
def test_a_sidecar_is_the_engines(config, monkeypatch, key, value, message):
    config.engine.name, config.creator.name = "vllm", "sidecar"
    config.engine.vllm.urls = ("http://localhost:8000",)
    config.creator.llm.name = ""  # the server's own
    monkeypatch.delenv("OPENAI_API_KEY")
    validate(config)
    config.update_from_flattened_dict({key: value})
    with pytest.raises(ValueError, match=re.escape(message)):
        validate(config)


def test_making_a_creator_touches_neither_network_nor_files(config, tmp_path):
    calls = tmp_path / "creator" / "calls.jsonl"
    made = build_strategy.make_creator(config, RuleTable(), calls, servers=())
    assert not made.state()["creator"]["assertions"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("absent", ["pydantic", "tenacity", "openai"])
def test_every_package_of_the_extra_is_looked_for(config, monkeypatch, absent):
    monkeypatch.setitem(sys.modules, absent, None)
    wanted = f"config.creator.name='openai' needs {absent}: pip install '.[llm]'"
    with pytest.raises(ValueError, match=re.escape(wanted)):
        validate(config)
