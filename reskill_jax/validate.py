"""Checks a configuration once, before any work is done."""

import shutil
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from reskill_jax import distributed
from reskill_jax.environments.registry import ENVIRONMENTS
from reskill_jax.laboratory.known_proposals import KNOWN
from reskill_jax.llm.backends import NAMES, SIDECAR
from reskill_jax.policy.ops.attention import BACKENDS
from reskill_jax.policy.sharding import AXES
from reskill_jax.strategies import STRATEGIES, trial_switches
from reskill_jax.trials.trial_config import TrialConfig

CREATORS = ("offline", *NAMES, SIDECAR, "replay")
_CHOICES: dict[str, Sequence[Any]] = {
    "env.name": tuple(ENVIRONMENTS),
    "prompt.layout": ("tree", "paper"),
    "policy.dtype": ("float32", "bfloat16"),
    "policy.attention": ("auto", *BACKENDS),
    "policy.reference": ("device", "host"),
    "policy.remat": ("none", "dots", "full", "offload"),
    "rollout.overlap": (0, 1),
    "engine.name": ("jax", "vllm"),
    "engine.vllm.transfer": ("files", "nccl"),
    "grpo.rule": ("corrected", "reference"),
    "grpo.scale": ("std", "none"),
    "grpo.aggregation": ("episode", "token"),
    "grpo.old_logprobs": ("sampler", "recompute"),
    "strategy.name": tuple(STRATEGIES),
    "creator.name": CREATORS,
    "creator.inject": tuple(KNOWN),
}
_HOUSES = ("", "small", "medium", "full")
_MODULES = ("env.name", "strategy.name", "creator.name")  # or a module, by dotted name

_AT_LEAST: dict[str, float] = {
    "num_steps": 0,
    "env.workers": 1,
    "env.max_attempts": 1,
    "prompt.max_tokens": 64,
    "prompt.history": 0,
    "policy.logprob_chunk": 1,
    "rollout.tasks_per_step": 1,
    "rollout.max_turns": 1,
    "rollout.temperature": 0,
    "rollout.max_tokens": 1,
    "rollout.concurrency": 1,
    "engine.max_sequences": 1,
    "engine.block_size": 1,
    "engine.prefill_rows": 1,
    "engine.decode_rows": 1,
    "engine.decode_steps": 1,
    "engine.vllm.replicas": 1,
    "engine.vllm.tensor_parallel_size": 1,
    "engine.vllm.gpu_memory_utilization": 0,
    "engine.vllm.max_attempts": 1,
    "engine.vllm.logprob_tolerance": 0,
    "grpo.group_size": 1,
    "grpo.minibatches": 1,
    "grpo.learning_rate": 0,
    "grpo.warmup_steps": 0,
    "grpo.decay_steps": 0,
    "grpo.kl_coef": 0,
    "grpo.importance_cap": 0,
    "grpo.logprob_diff_warning": 0,
    "grpo.invalid_penalty": 0,
    "strategy.max_skills": 1,
    "strategy.candidates": 1,
    "strategy.reservoir_size": 2,
    "strategy.reservoir_min": 1,
    "creator.delay_steps": 0,
    "creator.analysed_tasks": 0,
    "creator.max_concurrency": 1,
    "creator.author_attempts": 1,
    "creator.llm.max_tokens": 1,
    "creator.inject_every": 0,
    "eval.every": 0,
    "eval.max_tasks": 1,
    "checkpoint.every": 1,
    "checkpoint.keep": 1,
}


def validate(config: ConfigDict) -> None:
    """Check values and how they fit together.

    Raises:
        ValueError: names every key that is wrong, its value and the way out.
    """
    problems = [*_value_problems(config), *_fit_problems(config)]
    if problems:
        raise ValueError("the configuration cannot run:\n  " + "\n  ".join(problems))


def _value_problems(config: ConfigDict) -> Iterator[str]:
    for key, choices in _CHOICES.items():
        value = _get(config, key)
        if value not in choices and not (key in _MODULES and "." in value):
            shown = ", ".join(repr(choice) for choice in choices)
            yield f"config.{key}={value!r}: choose one of {shown}"
    for key, least in _AT_LEAST.items():
        if not (value := _get(config, key)) >= least:
            yield f"config.{key}={value}: must be {least:g} or more"


def _fit_problems(config: ConfigDict) -> Iterator[str]:
    tasks, parts = config.rollout.tasks_per_step, config.grpo.minibatches
    if parts < 1 or tasks % parts:
        yield (
            f"config.rollout.tasks_per_step={tasks} cannot be divided into "
            f"config.grpo.minibatches={parts} parts of whole groups: make it a multiple"
        )
    arms = 1 + config.strategy.candidates
    if (
        trial_switches(config.strategy.name) is not None
        and config.grpo.group_size < arms
    ):
        yield (
            f"config.grpo.group_size={config.grpo.group_size}: a trial splits a group "
            f"between {arms} banks: use {arms} or more, fewer "
            "config.strategy.candidates, or config.strategy.name='grpo'"
        )
    if config.trial.mode == "paper" and config.strategy.candidates > 1:
        yield (
            f"config.strategy.candidates={config.strategy.candidates}: trials of "
            "config.trial.mode='paper' have one candidate, those of 'paired' take more"
        )
    if config.strategy.name == "no_analyzer" and config.creator.name != "offline":
        yield (
            f"config.creator.name={config.creator.name!r} has no version without its "
            "analyser: use 'offline', or another config.strategy.name"
        )
    if config.grpo.importance_cap and config.grpo.old_logprobs != "recompute":
        yield (
            f"config.grpo.importance_cap={config.grpo.importance_cap} needs "
            "config.grpo.old_logprobs='recompute': with the sampler's there is nothing "
            "to weigh"
        )
    if not 0 < config.rollout.top_p <= 1:
        yield f"config.rollout.top_p={config.rollout.top_p}: must be in (0, 1]"
    try:
        TrialConfig(**config.trial.to_dict())
    except ValueError as error:
        yield f"config.{error}"
    if config.env.timeout_s <= 0:
        yield f"config.env.timeout_s={config.env.timeout_s}: must be above 0 seconds"
    if config.strategy.reservoir_min > config.strategy.reservoir_size:
        yield (
            f"config.strategy.reservoir_min={config.strategy.reservoir_min} exceeds "
            f"config.strategy.reservoir_size={config.strategy.reservoir_size}: the "
            "creator would never be asked"
        )
    longest = config.prompt.max_tokens + config.rollout.max_tokens
    if max(config.grpo.buckets) < longest:
        yield (
            f"config.grpo.buckets={tuple(config.grpo.buckets)} holds no turn of "
            f"prompt.max_tokens + rollout.max_tokens = {longest} tokens: add a longer"
        )
    if max(config.grpo.buckets) > config.grpo.tokens_per_microbatch:
        yield (
            f"config.grpo.tokens_per_microbatch={config.grpo.tokens_per_microbatch} is "
            f"below the longest of config.grpo.buckets={tuple(config.grpo.buckets)}"
        )
    if config.creator.name in CREATORS[1:]:
        yield from _creator_problems(config)
    yield from _vllm_problems(config)
    yield from _mesh_problems(config)
    yield from _source_problems(config)


def _mesh_problems(config: ConfigDict) -> Iterator[str]:
    shape = [config.mesh[axis] for axis in AXES]
    if min(size or -2 for size in shape) < -1 or shape.count(-1) > 1:
        yield (
            f"config.mesh={dict(config.mesh)}: sizes are 1 or more, and one of them "
            "may be -1 for the devices that are left"
        )
    if config.rollout.overlap and not distributed.is_alone():
        yield (
            "config.rollout.overlap=1 works with one trainer process: in several, two "
            "threads would enter collectives in different orders; use 0 with "
            "--distributed"
        )


def _vllm_problems(config: ConfigDict) -> Iterator[str]:
    """Check what can be checked before servers are started."""
    vllm = config.engine.vllm
    if config.engine.name != "vllm":
        return
    if find_spec("httpx") is None:
        yield "config.engine.name='vllm': pip install '.[vllm]'"
    if not vllm.urls and shutil.which(vllm.executable) is None:
        yield (
            f"config.engine.vllm.executable={vllm.executable!r} is not there: install "
            "vLLM into an environment of its own and name its bin/vllm"
        )
    if 0 < len(vllm.urls) < distributed.count():
        yield (
            f"config.engine.vllm.urls={tuple(vllm.urls)}: each of the "
            f"{distributed.count()} processes has servers of its own: name as many, "
            "or start fewer processes"
        )
    if vllm.transfer == "nccl" and not distributed.is_alone():
        yield (
            "config.engine.vllm.transfer='nccl' works with one trainer process: in "
            "several, a server that is started again could not be sent weights by one "
            "of them; use 'files' with --distributed"
        )
    if vllm.devices and len(vllm.devices) != vllm.replicas:
        yield (
            f"config.engine.vllm.devices={tuple(vllm.devices)}: give one entry for "
            f"each of config.engine.vllm.replicas={vllm.replicas}"
        )
    if vllm.transfer == "nccl" and not (vllm.urls or vllm.devices):
        yield (
            "config.engine.vllm.devices=(): with config.engine.vllm.transfer='nccl' "
            "servers want GPUs that are not the trainer's: name those of each, or "
            "servers that run already in config.engine.vllm.urls"
        )
    if vllm.transfer == "nccl" and config.rollout.overlap:
        yield (
            "config.engine.vllm.transfer='nccl' with config.rollout.overlap=1: a "
            "server that is started again during an update could not be sent weights; "
            "use 'files'"
        )
    if vllm.libnccl and not Path(vllm.libnccl).is_file():
        yield (
            f"config.engine.vllm.libnccl={vllm.libnccl!r} is no file: name the "
            "libnccl.so.2 of vLLM's environment, or leave it empty"
        )
    for key in ("start_timeout_s", "timeout_s"):
        if vllm[key] <= 0:
            yield f"config.engine.vllm.{key}={vllm[key]}: must be above 0 seconds"


def _creator_problems(config: ConfigDict) -> Iterator[str]:
    """Check all that a creator with a language model needs, but for the network."""
    if find_spec("pydantic") is None:
        yield f"config.creator.name={config.creator.name!r}: pip install '.[llm]'"
        return
    from reskill_jax.creator.factory import problem  # noqa: PLC0415

    if (timeout := config.creator.llm.timeout_s) <= 0:
        yield f"config.creator.llm.timeout_s={timeout}: must be above 0 seconds"
    if found := problem(**_llm_settings(config)):
        yield f"config.creator: {found}"
    if config.creator.name == SIDECAR:
        yield from _sidecar_problems(config)


def _sidecar_problems(config: ConfigDict) -> Iterator[str]:
    """Creator and engine share servers."""
    if config.engine.name != "vllm":
        yield (
            f"config.engine.name={config.engine.name!r} has no servers for "
            "config.creator.name='sidecar': use 'vllm', or another creator"
        )
    creator, engine = config.creator.llm.timeout_s, config.engine.vllm.timeout_s
    if creator >= engine:
        yield (
            f"config.creator.llm.timeout_s={creator:g}: a push waits for the creator's "
            f"answers, at most config.engine.vllm.timeout_s={engine:g} s: make it less"
        )


def _source_problems(config: ConfigDict) -> Iterator[str]:
    """Check where weights, skills and games come from."""
    path, recipe = config.policy.path, config.warm_start.recipe
    if not path and not recipe:
        yield (
            "config.policy.path is empty: name a Hugging Face directory with weights, "
            "or a recipe in config.warm_start.recipe"
        )
    if path and not (Path(path) / "config.json").is_file():
        yield (
            f"config.policy.path={path!r} holds no config.json: name the Hugging Face "
            "directory of a model, with its weights and tokenizer"
        )
    if recipe and not path:
        from reskill_jax.laboratory.recipe import RECIPES  # noqa: PLC0415

        if recipe not in RECIPES:
            yield f"config.warm_start.recipe={recipe!r}: choose one of {list(RECIPES)}"
        else:
            yield from _recipe_problems(config, RECIPES[recipe])
    if config.strategy.bank and not Path(config.strategy.bank).is_dir():
        yield f"config.strategy.bank={config.strategy.bank!r} is not a directory"
    if config.strategy.name == "static" and not config.strategy.bank:
        yield (
            "config.strategy.bank is empty: strategy 'static' needs a directory of "
            "skills; without skills it is config.strategy.name='grpo'"
        )
    if config.env.name == "alfworld":
        yield from _house_problems(config)


def _house_problems(config: ConfigDict) -> Iterator[str]:
    if config.env.houses not in _HOUSES:
        shown = ", ".join(map(repr, _HOUSES))
        yield f"config.env.houses={config.env.houses!r}: choose one of {shown}"
    for key in ("houses_train", "houses_eval"):
        if config.env[key] < 0:
            yield f"config.env.{key}={config.env[key]}: must be 0 or more"
    houses = (config.env.houses_train, config.env.houses_eval)
    if config.env.houses and not config.env.root and not all(houses):
        yield (
            f"config.env.houses={config.env.houses!r} builds "
            f"houses_train={houses[0]} and houses_eval={houses[1]} games: give both"
        )


def _recipe_problems(config: ConfigDict, recipe: Any) -> Iterator[str]:
    """A policy reads the prompts that it learnt to read."""
    wanted = {
        "prompt.wording": recipe.wording,
        "prompt.actions": recipe.actions,
        "prompt.layout": "tree",
    }
    for key, value in wanted.items():
        if _get(config, key) != value:
            yield (
                f"config.{key}={_get(config, key)!r}, but the warm start "
                f"{config.warm_start.recipe!r} was taught with {value!r}: use that, or "
                "name weights in config.policy.path"
            )


def _llm_settings(config: ConfigDict) -> dict[str, Any]:
    own = ("delay_steps", "inject", "inject_every")
    return {k: v for k, v in config.creator.to_dict().items() if k not in own}


def _get(config: ConfigDict, key: str) -> Any:
    value: Any = config
    for part in key.split("."):
        value = value[part]
    return value
