"""Shared keys, variants, and flags: what a run's config.json comes to hold."""

import json
import runpy
import subprocess
import sys
from dataclasses import asdict

import pytest
from ml_collections import ConfigDict
from programs import ROOT, get_config

from reskill_jax import defaults
from reskill_jax.environments.alfworld.settings import Settings
from reskill_jax.llm.backends import Model
from reskill_jax.llm.budget import Budget
from reskill_jax.llm.retry import RetryPolicy
from reskill_jax.objectives import OBJECTIVES
from reskill_jax.trials.bounds import KEYS, make_config
from reskill_jax.trials.shape import Shape
from reskill_jax.trials.trial_config import TrialConfig
from reskill_jax.validate import validate
from reskill_jax.workdir import flatten

VARIANTS = {
    "small": {"num_steps": 3, "grpo.group_size": 4},
    "long": {"num_steps": 900},
    "typo": {"grpo.group_sise": 4},
}


def test_section_env_has_shared_keys_and_those_of_the_environment():
    env = defaults.get_config("alfworld").env.to_dict()
    assert asdict(Settings()).items() <= env.items()
    assert env["name"] == "alfworld"
    assert set(env) - set(asdict(Settings())) == {
        "name", "workers", "timeout_s", "max_attempts", "max_failed_groups",
    }  # fmt: skip


def test_defaults_are_those_of_the_parts():
    config = defaults.get_config("alfworld")
    assert make_config(config.trial, Shape(16, 8)) == TrialConfig()
    assert {"preset", *KEYS} == set(config.trial)
    assert Budget(**config.creator.budget) == Budget()
    assert RetryPolicy(**config.creator.retry) == RetryPolicy()
    assert Model("openai", **config.creator.llm) == Model("openai", "")


@pytest.mark.parametrize(
    ("text", "steps", "group_size"),
    [("", 150, 8), ("small", 3, 4), ("small,long", 900, 4), ("long,small", 3, 4)],
)
def test_variants_are_applied_as_written_and_later_ones_win(text, steps, group_size):
    config = defaults.expand(defaults.get_config("alfworld"), text, VARIANTS)
    assert (config.num_steps, config.grpo.group_size) == (steps, group_size)
    assert config.is_locked
    with pytest.raises(AttributeError):
        config.grpo.group_sise = 4


@pytest.mark.parametrize("text", ["huge", "small,huge", "small,", ",", "small, long"])
def test_an_unknown_variant_is_refused_with_those_there_are(text):
    with pytest.raises(ValueError, match="from small, long, typo, dapo, ") as error:
        defaults.expand(defaults.get_config("alfworld"), text, VARIANTS)
    assert f"configs/alfworld.py:{text} has no variant" in str(error.value)


def test_a_variant_sets_only_keys_that_exist():
    with pytest.raises(KeyError, match="group_sise"):
        defaults.expand(defaults.get_config("alfworld"), "typo", VARIANTS)


@pytest.mark.parametrize("variant", ["paper", "paper,cpu", "cpu,paper"])
def test_paper_has_the_published_trial_all_of_it(variant):
    trial = make_config(get_config(variant).trial, Shape(6, 8))
    assert trial == TrialConfig(
        mode="paper",
        assignment="per_rollout",
        epsilon=0.2,
        min_steps=5,
        max_steps=5,
        min_episodes=0,
        carry_over=0.0,
    )


def test_official_departs_from_it_in_two_numbers():
    official = make_config(get_config("official").trial, Shape(16, 8))
    assert official == TrialConfig.preset("paper", epsilon=0.15, min_episodes=50)


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("base", ["cpu", "smoke", "paper,cpu"])
def test_published_objectives_combine_with_other_variants(base, name):
    config = get_config(f"{base},{name}")
    config.prompt.layout, config.creator.name = "tree", "offline"
    validate(config)
    before, after = flatten(get_config(base).to_dict()), flatten(config.to_dict())
    changed = {key for key in after if after[key] != before[key]}
    assert changed - {"prompt.layout", "creator.name"} <= OBJECTIVES[name].keys()
    for key, value in OBJECTIVES[name].items():
        assert after[key] == value


def test_every_environment_has_the_published_objectives():
    for path in sorted((ROOT / "configs").glob("*.py")):
        config = runpy.run_path(str(path))["get_config"]("smoke,gigpo")
        assert config.grpo.estimator == "gigpo"


def test_an_objective_replaces_the_rule_of_the_released_code():
    assert get_config("official,dapo").grpo.rule == "corrected"
    assert get_config("dapo,official").grpo.rule == "reference"


def documented_rows():
    """Read the table of differences: key -> values as written, then the source."""
    text = (ROOT / "docs" / "configuration.md").read_text()
    table = text.split("| key | default | paper | official | source |")[1]
    lines = table.split("\n\n")[0].strip().splitlines()[1:]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert len({key for key, *_ in cells}) == len(cells)
    return {key: rest for key, *rest in cells}


def test_the_documentation_lists_where_paper_and_official_differ():
    variants = [
        flatten(get_config(name).to_dict()) for name in ("", "paper", "official")
    ]
    values = {key: [config[key] for config in variants] for key in variants[0]}
    rows = documented_rows()
    assert {key: shown for key, (*shown, _) in rows.items()} == {
        f"`{key}`": [f"`{value!r}`" for value in found]
        for key, found in values.items()
        if found != [found[0]] * 3
    }
    assert all(len(source) > 10 for *_, source in rows.values())


def test_the_documented_laptop_run_of_the_papers_trial_is_valid():
    config = get_config("paper,cpu")
    config.prompt.layout, config.creator.name = "tree", "offline"
    validate(config)
    assert make_config(config.trial, Shape(6, 8)).mode == "paper"


def test_smoke_implies_cpu():
    smoke, both = get_config("smoke"), get_config("cpu,smoke")
    assert smoke.to_dict() == both.to_dict()
    assert smoke.policy.path == ""
    assert smoke.num_steps < get_config("cpu").num_steps


# The flags of the program, up to where its run binds the configuration.
PROGRAM = """
import sys
from pathlib import Path
from absl import flags
from reskill_jax import main
from reskill_jax.workdir import Workdir
flags.FLAGS(sys.argv)
Workdir(Path(flags.FLAGS.workdir)).bind(flags.FLAGS.config.to_dict())
"""


def run_flags(workdir, config, *changes):
    return subprocess.run(
        [
            sys.executable, "-c", PROGRAM, f"--config={config}",
            f"--workdir={workdir}", *changes,
        ],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_flags_win_over_variants_and_config_json_holds_the_expanded_keys(tmp_path):
    done = run_flags(
        tmp_path,
        "configs/alfworld.py:cpu,smoke",
        "--config.num_steps=7",  # set by both variants
        "--config.env.houses_seed=5",  # only in the environment's settings
        "--config.eval.splits=('valid_seen',)",
    )
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "config.json").read_text())
    wanted = get_config("smoke")
    wanted.num_steps, wanted.env.houses_seed = 7, 5
    wanted.eval.splits = ("valid_seen",)
    assert found == json.loads(json.dumps(wanted.to_dict()))
    assert ConfigDict(found).grpo.group_size == 4  # of a variant, not of a flag


def test_the_program_names_the_variants_there_are(tmp_path):
    done = run_flags(tmp_path, "configs/alfworld.py:cpu,tiny")
    assert done.returncode != 0
    assert (
        "has no variant 'tiny': choose from paper, official, cpu, smoke, both, "
        in done.stderr
    )
