"""What cannot run is refused by key, value and what would be right."""

import json
import math
import re
import runpy
import sys

import pytest
from ml_collections import ConfigDict
from programs import ROOT, get_config, save_random_policy, start

from reskill_jax import validate as validation
from reskill_jax.build_strategy import settle_trial
from reskill_jax.rollout.vllm import settings as vllm_settings
from reskill_jax.validate import validate
from reskill_jax.workdir import flatten

FRACTIONS = ("XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_MEM_FRACTION")
SHIPPED = sorted(ROOT.glob("configs/*.py"))
SMOKE = flatten(settle_trial(get_config("smoke")).to_dict())

# Keys of the smoke configuration that may be negative, or empty.
NEGATIVE = {
    "creator.llm.temperature", "strategy.memrl.q_min", "strategy.skillrl.threshold",
}  # fmt: skip
EMPTY = {
    "env.root", "env.houses", "env.source", "env.kinds", "env.eval_kinds",
    "policy.path", "mesh.topology",
    "warm_start.recipe",
    "engine.vllm.urls", "engine.vllm.devices", "engine.vllm.arguments",
    "engine.vllm.libnccl", "strategy.bank", "strategy.skillrl.library",
    "creator.prompts", "creator.replay",
    "creator.llm.name", "creator.llm.base_url", "creator.llm.api_key_variable",
    "embedder.encoder", "embedder.model", "embedder.base_url",
    "embedder.api_key_variable",
    "grpo.token_mask", "grpo.episode_mask",
    "eval.splits", "eval.panel", "report.trackers", "checkpoint.best",
}  # fmt: skip


def bad_values(key):
    """Yield values that no run can have for a key, after the type of what it has."""
    value = SMOKE[key]
    if not key.startswith("trial.") or key == "trial.preset":
        yield None  # elsewhere it is what the preset says
    if isinstance(value, bool):
        yield from (0, 1, "True")
    elif isinstance(value, int):
        yield from ("1", True, 1.5, math.nan, math.inf)
        yield from () if key in NEGATIVE else (-2,)
    elif isinstance(value, float):
        yield from ("1", True, math.nan, math.inf, -math.inf, 10**400)
        yield from () if key in NEGATIVE else (-0.5,)
    elif isinstance(value, str):
        yield from (1, True, ("a",))
        yield from () if key in EMPTY else ("",)
    else:
        yield from (1, "a", (None,), (True,), (1.5,), (1, "a"), ("",), (2, 1), (1, 1))
        yield from () if key in EMPTY else ((),)


def smoke_with(key, value):
    """Return the smoke configuration with a value that it may not even hold."""
    tree = get_config("smoke").to_dict()
    *sections, name = key.split(".")
    section = tree
    for part in sections:
        section = section[part]
    section[name] = value
    return ConfigDict(tree)  # not set in it: True would become 1.0


def refusal(config):
    with pytest.raises(ValueError, match="the configuration cannot run") as error:
        validate(config)
    return str(error.value).splitlines()[1:]


@pytest.mark.parametrize("key", sorted(SMOKE))
def test_every_key_refuses_what_it_cannot_be(key):
    for value in bad_values(key):
        (line,) = refusal(smoke_with(key, value))
        assert line.startswith(f"  config.{key}={value!r}: "), line
        wanted = line.removeprefix(f"  config.{key}={value!r}: ")
        assert wanted.startswith(("must be", "choose one of")), line


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_the_table_has_exactly_the_keys_of_shipped_configurations(path):
    shipped = runpy.run_path(str(path))
    for variant in ("", *shipped["VARIANTS"]):
        config = shipped["get_config"](variant)
        assert set(flatten(config.to_dict())) == set(validation.table(config.env.name))


@pytest.mark.parametrize("key", sorted(EMPTY | {"env.houses_train"}))
def test_what_the_keys_test_takes_for_allowed_is_there(key):
    assert key in SMOKE


@pytest.mark.parametrize("variant", ["cpu", "smoke"])
def test_variants_for_the_laptop_run_as_they_are(variant):
    validate(get_config(variant))


def test_a_chat_model_has_to_be_named():
    (problem,) = refusal(get_config("chat"))
    assert problem.startswith("  config.policy.path='': name a Hugging Face directory")


def test_keys_that_are_unknown_or_missing_are_named():
    config = get_config()
    del config.grpo.clip_norm
    config.grpo.clip_nrom = 1.0
    assert refusal(config) == [
        "  config.grpo.clip_norm is missing: add it, see reskill_jax/defaults.py",
        "  config.grpo.clip_nrom=1.0: there is no such key: leave it out",
    ]


def test_all_wrong_values_are_named_at_once():
    config = get_config()
    config.num_steps, config.grpo.clip_norm, config.trial.discount = -1, 0.0, "no"
    assert [line.split(":")[0] for line in refusal(config)] == [
        "  config.grpo.clip_norm=0.0",
        "  config.num_steps=-1",
    ]
    config.num_steps, config.grpo.clip_norm = 1, 1.0
    assert refusal(config) == [
        "  config.trial.discount='no': choose one of 'adaptive', 'constant', "
        "'last_step', 'none'"
    ]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("grpo.dual_clip", 0.0),
        ("grpo.weight_decay", 0.0),
        ("grpo.clip_high", 0.28),
        ("rollout.temperature", 0.0),
        ("creator.llm.temperature", -1.0),
        ("mesh.fsdp", -1),
        ("policy.path", "random:tiny"),
        ("eval.splits", ()),
        ("eval.splits", ["valid_seen"]),  # as JSON has tuples
        ("trial.carry_over", 0),  # an integer is a number
        ("trial.min_episodes", 0),
    ],
)
def test_values_at_the_edge_are_taken(key, value):
    validate(smoke_with(key, value))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"grpo.dual_clip": 1.0}, "grpo.dual_clip=1.0: must be a finite number above"),
        ({"rollout.top_p": 1.5}, "rollout.top_p=1.5: must be a finite number, above 0"),
        ({"rollout.overlap": 2}, "rollout.overlap=2: choose one of 0, 1"),
        ({"strategy.name": "magic"}, "strategy.name='magic': choose one of grpo"),
        ({"mesh.data": -1, "mesh.fsdp": -1}, "mesh.data=-1, fsdp=-1: only one axis"),
        ({"env.houses_eval": 0}, "env.houses='small' with houses_train=4 and houses_"),
        ({"trial.epsilon": 0.9}, "trial.epsilon=0.9: must be within [0, 0.5]"),
        ({"trial.min_steps": 99}, "trial.min_steps=99: must be within [1, 24]"),
        (
            {"creator.budget.run_dollars": 5.0},
            "creator.budget.run_dollars=5.0 needs input_price and output_price: set",
        ),
        ({"grpo.minibatches": 3}, "grpo.minibatches=3 cannot divide the 2 tasks of a"),
        ({"grpo.buckets": (64,)}, "grpo.buckets=(64,) has no row for a turn of 640"),
        (
            {"grpo.tokens_per_microbatch": 700},
            "grpo.tokens_per_microbatch=700 is below the longest of buckets=(512, 768)",
        ),
        (
            {"grpo.importance_cap": 2.0},
            "grpo.importance_cap=2.0 needs old_logprobs='recompute'",
        ),
        (
            {"grpo.token_mask": (0.5, 5.0)},
            "grpo.token_mask=(0.5, 5.0) needs old_logprobs='recompute'",
        ),
        (
            {"grpo.episode_mask": (0.99, 1.01)},
            "grpo.episode_mask=(0.99, 1.01) needs old_logprobs='recompute'",
        ),
        ({"grpo.kl_in": "reward"}, "grpo.kl_estimator='k3' has no meaning with kl_in="),
        ({"grpo.kl_estimator": "k1"}, "grpo.kl_estimator='k1' with kl_in='loss' has a"),
        (
            {"grpo.reference_refresh": 5},
            "grpo.reference_refresh=5 has no reference to set anew with kl_coef=0",
        ),
        ({"grpo.schedule": "linear"}, "grpo.decay_steps=0 does not go with schedule="),
        ({"grpo.decay_steps": 9}, "grpo.decay_steps=9 does not go with schedule="),
        (
            {"grpo.min_learning_rate": 1e-5},
            "grpo.min_learning_rate=1e-05 is never reached with schedule='constant'",
        ),
        (
            {
                "grpo.min_learning_rate": 0.5,
                "grpo.schedule": "linear",
                "grpo.decay_steps": 9,
            },
            "grpo.min_learning_rate=0.5 is above learning_rate=0.0003",
        ),
        (
            {"grpo.group_size": 1, "rollout.tasks_per_step": 8},
            "strategy.candidates=1: a trial divides a group of 1",
        ),
        (
            {"strategy.reservoir_min": 300},
            "strategy.reservoir_min=300 exceeds reservoir_size=200",
        ),
        ({"strategy.name": "static"}, "strategy.bank='': name='static' needs a"),
        ({"strategy.bank": "/no"}, "strategy.bank='/no' is not a directory"),
        (
            {"strategy.name": "grpo", "strategy.bank": "docs"},
            "strategy.bank='docs' would be ignored by name='grpo': leave it empty",
        ),
        ({"policy.path": "/no"}, "policy.path='/no' holds no config.json"),
        (
            {"policy.reference": "host", "policy.lora.rank": 4},
            "policy.reference='host' has no meaning with lora.rank=4",
        ),
        (
            {"policy.path": "random:no"},
            "policy.path='random:no': choose one of 'random",
        ),
        ({"warm_start.recipe": ""}, "policy.path='': name a Hugging Face directory"),
        ({"warm_start.recipe": "x"}, "warm_start.recipe='x': choose one of 'alfworld"),
        (
            {"prompt.actions": True},
            "warm_start.recipe='alfworld-remarks' taught the policy prompts with "
            "actions=False, not True",
        ),
    ],
)
def test_values_that_do_not_fit_each_other_are_refused(changes, message, monkeypatch):
    monkeypatch.chdir(ROOT)
    config = get_config()
    config.update_from_flattened_dict(changes)
    (line,) = refusal(config)
    assert line.startswith(f"  config.{message}"), line


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"executable": "/no/vllm"}, "executable='/no/vllm' was not found"),
        ({"libnccl": "/no/lib"}, "libnccl='/no/lib' is not a file"),
        ({"devices": ("4", "5")}, "devices=('4', '5'): give one entry for each of"),
        (
            {"arguments": ("--logprobs_mode=raw_logprobs",)},
            "arguments=('--logprobs_mode=raw_logprobs',): --logprobs-mode has to be",
        ),
        ({"transfer": "nccl"}, "devices=(): with transfer='nccl' servers need GPUs"),
    ],
)
def test_servers_that_could_not_serve_are_refused(changes, message):
    pytest.importorskip("httpx", reason="needs the extra vllm: pip install '.[vllm]'")
    config = get_config()
    config.engine.name, config.engine.vllm.executable = "vllm", sys.executable
    validate(config)
    config.engine.vllm.update(changes)
    (line,) = refusal(config)
    assert line.startswith(f"  config.engine.vllm.{message}"), line


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"gpu_memory_utilization": 0.9},
            "trainer_memory=0.45 and gpu_memory_utilization=0.9 are 1.35 of each "
            "device, which must be at most 0.95: lower one",
        ),
        ({"gpu_memory_utilization": 0.0}, "gpu_memory_utilization=0 leaves a server's"),
        ({"transfer": "nccl", "urls": ("http://a:1",)}, "colocate=True: NCCL joins"),
        ({"replicas": 2}, "replicas=2 with colocate would all be on the first devices"),
        (
            {"replicas": 2, "devices": ("0", "0")},
            "devices=('0', '0'): 0 would have several servers",
        ),
        ({"devices": ("0,1",)}, "devices=('0,1',): each needs tensor_parallel_size=1"),
    ],
)
def test_servers_on_the_trainers_devices_have_to_leave_it_room(
    changes, message, monkeypatch
):
    pytest.importorskip("httpx", reason="needs the extra vllm: pip install '.[vllm]'")
    for name in (*FRACTIONS, "XLA_PYTHON_CLIENT_ALLOCATOR"):
        monkeypatch.delenv(name, raising=False)
    config = colocated()
    validate(config)
    config.engine.vllm.update({"trainer_memory": 0.0, "gpu_memory_utilization": 0.9})
    validate(config)  # a trainer that takes and gives back
    config = colocated()
    config.engine.vllm.update(changes)
    (line,) = refusal(config)
    assert line.startswith(f"  config.engine.vllm.{message}"), line


def colocated():
    config = get_config()
    config.engine.name, config.engine.vllm.executable = "vllm", sys.executable
    config.engine.vllm.update({"colocate": True, "gpu_memory_utilization": 0.5})
    return config


def test_sleeping_servers_neither_collect_nor_write_skills():
    pytest.importorskip("httpx", reason="needs the extra vllm: pip install '.[vllm]'")
    pytest.importorskip("openai", reason="needs the extra llm: pip install '.[llm]'")
    config = colocated()
    config.rollout.overlap = 1
    config.creator.name = "sidecar"
    first, second = sorted(refusal(config))
    assert first.startswith("  config.creator.name='sidecar': the servers sleep while")
    assert second.startswith("  config.engine.vllm.colocate=True: servers sleep during")


@pytest.mark.parametrize("name", FRACTIONS)
def test_the_environment_may_not_give_the_trainer_another_share(name, monkeypatch):
    pytest.importorskip("httpx", reason="needs the extra vllm: pip install '.[vllm]'")
    monkeypatch.setenv(name, ".92")
    (line,) = refusal(colocated())
    message = f"config.engine.vllm.trainer_memory=0.45: the environment has {name}=.92"
    assert line.startswith(f"  {message}")


def test_the_trainer_gets_its_share_from_the_configuration():
    variables = {}
    vllm_settings.set_trainer_variables(0.45, variables)
    assert variables == {"XLA_CLIENT_MEM_FRACTION": "0.45"}
    vllm_settings.set_trainer_variables(0.3, variables)
    assert variables == {"XLA_CLIENT_MEM_FRACTION": "0.45"}  # refused elsewhere
    variables = {}
    vllm_settings.set_trainer_variables(0.0, variables)
    assert variables == {"XLA_PYTHON_CLIENT_ALLOCATOR": "platform"}


def test_vllm_draws_from_the_whole_vocabulary():
    """Its log-probs are renormalised over what it keeps; our engine's are not."""
    pytest.importorskip("httpx", reason="needs the extra vllm: pip install '.[vllm]'")
    config = get_config()
    config.rollout.top_p = 0.9
    validate(config)
    config.engine.name, config.engine.vllm.executable = "vllm", sys.executable
    (line,) = refusal(config)
    assert line.startswith("  config.rollout.top_p=0.9: the log-probs of engine 'vllm'")
    config.rollout.top_p = 1.0
    validate(config)


def test_nccl_wants_devices_and_no_overlap():
    pytest.importorskip("httpx", reason="needs the extra vllm: pip install '.[vllm]'")
    config = get_config()
    config.engine.name, config.engine.vllm.executable = "vllm", sys.executable
    config.engine.vllm.update({"transfer": "nccl", "devices": ("4,5",)})
    config.engine.vllm.libnccl = sys.executable  # a file, which is not opened
    validate(config)
    config.rollout.overlap = 1
    (line,) = refusal(config)
    assert line.startswith("  config.engine.vllm.transfer='nccl' does not work with")


@pytest.mark.parametrize(
    ("variant", "service", "package"),
    [("", None, None), ("paper", "openai", "openai"), ("official", "bedrock", "boto3")],
)
def test_the_published_scale_asks_for_models_alone(
    variant, service, package, tmp_path, monkeypatch
):
    if package:
        pytest.importorskip(package, reason="needs the extra llm: pip install '.[llm]'")
    monkeypatch.setenv("OPENAI_API_KEY", "the-key")
    config = get_config(variant)
    *language, policy = refusal(config)
    assert re.match(r"  config\.policy\.path='Qwen3-4B-Instruct-2507' holds no", policy)
    wanted = f"  config.creator.llm.name='': name={service!r} needs the name of a model"
    assert [line.split(",")[0] for line in language] == ([wanted] if service else [])
    config.policy.path = str(save_random_policy(tmp_path))
    config.creator.llm.name = "a-model"
    validate(config)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("seed", 2**31),
        ("num_steps", 2**40),
        ("env.workers", 10**6),
        ("env.timeout_s", 1e-3),
        ("env.timeout_s", 1e7),
        ("rollout.temperature", 1e-30),
        ("rollout.temperature", 1e30),
        ("rollout.tasks_per_step", 2**31),
        ("grpo.reward_scale", 1e-30),
        ("grpo.clip_low", 0.0),
        ("grpo.clip_low", 1.5),
        ("grpo.clip_high", 0.0),
        ("grpo.clip_norm", 1e-30),
        ("grpo.dual_clip", 1e300),
        ("grpo.importance_cap", 0.5),
        ("grpo.token_mask", (1.1, 2.0)),
        ("grpo.token_mask", (0.5, math.inf)),
        ("grpo.episode_mask", (0.9, 1.0, 1.1)),
        ("grpo.reference_mix", 0.0),
        ("grpo.overlong_buffer", 0.0),
        ("grpo.kl_coef", 1e300),
        ("grpo.learning_rate", 2.0),
        ("grpo.weight_decay", 1e300),
        ("grpo.buckets", (2**31,)),
        ("trial.max_steps", 10**9),
        ("trial.effect_sd", 1e300),
        ("trial.carry_over", 1e300),
        ("creator.retry.cooldown_s", 1e300),
        ("creator.llm.temperature", 3.0),
        ("creator.llm.base_url", "localhost:8000"),
        ("creator.llm.base_url", "http://[::1"),
        ("engine.vllm.urls", ("localhost:8000",)),
        ("engine.vllm.urls", ("http://a:1", "http://a:1")),
        ("engine.vllm.urls", ("http://me:secret@a:1",)),
        ("eval.splits", ("valid_seen", "valid_seen")),
    ],
)
def test_values_beyond_what_machines_and_methods_take_are_refused(key, value):
    (line,) = refusal(smoke_with(key, value))
    assert line.startswith(f"  config.{key}={value}: must be ") or line.startswith(
        f"  config.{key}={value!r}: must be "
    )


def test_a_bank_is_read_before_any_work(tmp_path):
    config = get_config()
    config.strategy.name, config.strategy.bank = "static", str(tmp_path)
    (line,) = refusal(config)
    assert line.startswith(f"  config.strategy.bank='{tmp_path}' holds no skills")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "SKILL.md").write_text("no front matter")
    (line,) = refusal(config)
    assert f"config.strategy.bank='{tmp_path}': {tmp_path}/broken/SKILL.md: " in line


def test_adapters_alone_are_no_policy(tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    config = get_config()
    config.policy.path = str(tmp_path)
    (line,) = refusal(config)
    assert line.startswith(f"  config.policy.path='{tmp_path}' holds adapters, not a ")


def test_a_library_is_read_before_any_work(tmp_path):
    config = get_config()
    config.strategy.name = "skillrl"
    config.strategy.skillrl.library = str(tmp_path)
    start = f"  config.strategy.skillrl.library='{tmp_path}"
    (line,) = refusal(config)
    assert line.startswith(f"{start}' holds no skills")
    config.strategy.skillrl.library = str(tmp_path / "no.json")
    (line,) = refusal(config)
    assert line.startswith(f"{start}/no.json': {tmp_path}/no.json: no such file")
    config.strategy.name = "grpo"  # which reads none
    validate(config)


def test_a_trial_that_could_not_end_in_its_steps_is_refused():
    config = get_config()
    config.trial.max_steps = 8
    config.trial.min_episodes = 65  # in 8 steps of 2 tasks with 4 rollouts
    (line,) = refusal(config)
    assert line.startswith(
        "  config.trial.min_episodes=65: max_steps=8 have 64 episodes"
    )
    config.strategy.name = "grpo"
    validate(config)


def test_a_method_without_proposals_needs_no_language_model():
    config = get_config()
    config.creator.name = "openai"
    (line,) = refusal(config)
    assert line.startswith("  config.creator.llm.name=''")
    config.strategy.name = "grpo"
    validate(config)


@pytest.mark.parametrize(
    ("key", "value"), [("budget.run_dollars", 5.0), ("retry.max_attempts", 0)]
)
def test_what_a_creator_may_spend_is_refused_once(key, value, monkeypatch):
    pytest.importorskip("openai", reason="needs the extra llm: pip install '.[llm]'")
    monkeypatch.setenv("OPENAI_API_KEY", "the-key")
    config = get_config()
    config.creator.name, config.creator.llm.name = "openai", "a-model"
    validate(config)
    config.update_from_flattened_dict({f"creator.{key}": value})
    (line,) = refusal(config)
    assert line.startswith(f"  config.creator.{key}={value}")


def test_a_mode_that_starts_no_run_checks_what_it_uses():
    config = get_config()
    config.strategy.bank, config.mesh.data, config.mesh.fsdp = "/no", -1, -1
    for sections in (validation.EVALUATION, validation.COMPILATION):
        with pytest.raises(ValueError, match="only one axis can take") as error:
            validate(config, sections)
        assert "bank" not in str(error.value)
    config.eval.max_tasks = 0
    with pytest.raises(ValueError, match=r"config\.eval\.max_tasks=0: must be"):
        validate(config, validation.EVALUATION)


@pytest.mark.slow
def test_made_configurations_are_refused_by_key_or_run():
    """Put together at random from allowed values; see `tests/made_configs.py`."""
    done = start(sys.executable, "tests/made_configs.py", "300", "20")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    report = json.loads(done.stdout.splitlines()[-1])
    assert (report["made"], report["runs"]) == (300, 20)
    assert report["good"] >= 100


@pytest.mark.parametrize(
    "changes",
    [
        {"strategy.name": "uniform", "trial.preset": "paper"},
        {"strategy.name": "no_discount", "trial.preset": "paper"},
        {"strategy.name": "last_step", "trial.preset": "paper"},
        {"strategy.name": "no_analyzer"},
        {"strategy.name": "no_analyzer", "creator.name": "openai"},
        {"trial.preset": "paper", "trial.min_steps": 10, "trial.max_steps": 10},
        {"strategy.max_skills": 4},
        {"creator.inject": "neutral", "creator.inject_every": 1},
        {"eval.context": "none"},
        {"strategy.name": "memrl", "creator.name": "openai"},
        *({"strategy.name": name} for name in ("react", "reflexion", "expel")),
    ],
)
def test_documented_ablations_and_methods_are_valid(changes, monkeypatch):
    pytest.importorskip("openai", reason="needs the extra llm: pip install '.[llm]'")
    monkeypatch.setenv("OPENAI_API_KEY", "a-key")
    config = get_config("smoke")
    config.creator.llm.name = "a-model"
    config.update_from_flattened_dict(changes)
    validate(config)


def test_methods_need_a_writer_that_a_creator_of_ones_own_is_not():
    config = get_config("smoke")
    config.strategy.name, config.creator.name = "memrl", "json"  # some module
    lines = refusal(config)
    assert any("name='memrl' has texts written" in line for line in lines)
