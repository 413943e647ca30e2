"""The configuration's section, refused by name where it cannot work."""

import importlib.util
import re
from pathlib import Path

import pytest

from reskill_jax.strategies import make_creator
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
        ("name", "oracle", "config.creator.name='oracle': choose one of 'offline'"),
        ("name", "replay", "config.creator: replay='': no such file: name a"),
        ("llm.name", "", "config.creator: llm.name='': backend='openai' needs the"),
        ("llm.api_key_variable", "NO_SUCH", "llm.api_key_variable='NO_SUCH': the env"),
        ("llm.base_url", "http://me:pass@host", "llm.base_url: the address holds cred"),
        ("llm.timeout_s", 0.0, "config.creator.llm.timeout_s=0.0: must be above 0"),
        ("budget.run_dollars", 5.0, "budget.run_dollars=5.0 needs input_price and"),
        ("budget.run_calls", -1, "budget.run_calls=-1: must be 0 or more"),
        (
            "retry.max_attempts",
            0,
            "config.creator: retry.max_attempts=0: must be 1 or more",
        ),
        ("prompts", "/nowhere", "'/nowhere' is not a directory of prompts"),
        ("delay_steps", -1, "config.creator.delay_steps=-1: must be 0 or more"),
        ("max_concurrency", 0, "config.creator.max_concurrency=0: must be 1 or more"),
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
        ("engine.name", "jax", "config.engine.name='jax' has no servers for"),
        ("creator.llm.base_url", "http://x", "url='http://x': the engine says where"),
        (
            "creator.llm.timeout_s",
            300.0,
            "config.creator.llm.timeout_s=300: a push waits",
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
    made = make_creator(config, tmp_path / "creator" / "calls.jsonl")
    assert not made.state()["creator"]["assertions"]
    assert list(tmp_path.iterdir()) == []
