"""Checks a configuration once, before any work is done.

One table says of every key which values it may have. How values fit together is
checked by the part that they are about, in its own words: frozen settings refuse to be
made, and functions in modules `settings` yield problems. Here they get their keys.
"""

import math
import re
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from dataclasses import fields
from functools import partial
from typing import Any, NamedTuple, get_type_hints

from ml_collections import ConfigDict

from reskill_jax import distributed
from reskill_jax.build import load_environment
from reskill_jax.build_strategy import CREATORS, find_creator, trial_shape
from reskill_jax.creator import settings as creator_settings
from reskill_jax.environments.registry import environment_module
from reskill_jax.grpo import settings as grpo_settings
from reskill_jax.laboratory.known_proposals import KNOWN
from reskill_jax.llm.budget import Budget
from reskill_jax.llm.retry import RetryPolicy
from reskill_jax.policy import settings as policy_settings
from reskill_jax.policy.ops.attention import BACKENDS
from reskill_jax.policy.sharding import AXES
from reskill_jax.rollout import settings as rollout_settings
from reskill_jax.rollout.vllm import settings as vllm_settings
from reskill_jax.strategies import (
    STRATEGIES,
    asks_creator,
    find_strategy,
    holds_trials,
)
from reskill_jax.strategies import settings as strategy_settings
from reskill_jax.trials import bounds
from reskill_jax.trials.bounds import make_config
from reskill_jax.trials.trial_config import PRESETS, TrialConfig
from reskill_jax.workdir import flatten

# What modes that start no run depend on.
EVALUATION = ("env", "prompt", "mesh", "engine.vllm")
COMPILATION = ("mesh", "grpo")


def validate(config: ConfigDict, sections: Container[str] | None = None) -> None:
    """Check every value and, if all of them are right, how they fit together.

    Args:
        config: of a run.
        sections: those whose values have to fit; None: all, as in training.

    Raises:
        ValueError: names every key that is wrong, its value and the way out.
    """
    problems = [*_value_problems(config)] or [*_fit_problems(config, sections)]
    if problems:
        lines = (f"\n  config.{problem}" for problem in problems)
        raise ValueError("the configuration cannot run:" + "".join(lines))


class Values(NamedTuple):
    """The values that a key may have.

    Attributes:
        holds: tells whether a value is one of them.
        wanted: the same in words.
    """

    holds: Callable[[Any], bool]
    wanted: str


def _is(value: Any, *types: type) -> bool:
    """Tell a value's type; True and False are no numbers here."""
    return isinstance(value, types) and (bool in types or not isinstance(value, bool))


def _choice(*choices: Any) -> Values:
    return Values(
        lambda x: any(type(x) is type(choice) and x == choice for choice in choices),
        f"choose one of {', '.join(map(repr, choices))}",
    )


_MOST = 2**31 - 1  # what arrays of counts, positions and seeds hold


def _integer(least: int, most: int = _MOST) -> Values:
    return Values(
        lambda x: _is(x, int) and least <= x <= most,
        f"must be an integer, {least} or more, {most} or less",
    )


def _number(
    low: float = -math.inf, high: float = math.inf, *, above_low: bool = False
) -> Values:
    words = ["must be a finite number"]
    if low > -math.inf:
        words.append(f"above {low:g}" if above_low else f"{low:g} or more")
    if high < math.inf:
        words.append(f"{high:g} or less")
    return Values(
        lambda x: (
            _is(x, int, float)
            and math.isfinite(x)
            and (low < x if above_low else low <= x)
            and x <= high
        ),
        ", ".join(words),
    )


_TEXT = Values(lambda x: _is(x, str), "must be a string")
_NAME = Values(lambda x: _is(x, str) and bool(x), "must be a string, not empty")
# Less is no time to answer in, and systems wait for at most 2^31 milliseconds.
_SECONDS = _number(1, 1e6)
_FLAG = Values(lambda x: _is(x, bool), "must be True or False")
_NAMES = Values(
    lambda x: _is(x, tuple, list) and all(map(_NAME.holds, x)),
    "must be a tuple of strings, none of them empty",
)
_URL = re.compile(
    r"https?://[^/\s\[\]]*(\[[0-9a-fA-F:.]+\]|[^/\s\[\]])[^/\s\[\]]*(/\S*)?"
)
_ADDRESS = Values(
    lambda x: _is(x, str) and (not x or bool(_URL.fullmatch(x))),
    "must be an address such as 'http://localhost:8000/v1', or empty",
)
_ADDRESSES = Values(
    lambda x: _NAMES.holds(x) and all(map(_ADDRESS.holds, x)) and len(set(x)) == len(x),
    "must be a tuple of different addresses such as 'http://localhost:8000'",
)
_SPLITS = Values(
    lambda x: _NAMES.holds(x) and len(set(x)) == len(x),
    "must be a tuple of different strings, none of them empty",
)
_AXIS = Values(
    lambda x: _is(x, int) and (x == -1 or 1 <= x <= _MOST),
    "must be an integer, 1 or more, or -1 for the devices that are left",
)
_DUAL_CLIP = Values(
    lambda x: _number(0, 1e6).holds(x) and (x == 0 or x > 1),
    "must be a finite number above 1, 1e+06 or less, or 0 for no bound",
)
_CAP = Values(
    lambda x: _number(0, 1e6).holds(x) and (x == 0 or x >= 1),
    "must be a finite number, 1 or more, 1e+06 or less, or 0 for no weights",
)
# Scores divided by less would not be finite numbers any more.
_TEMPERATURE = Values(
    lambda x: _number(0, 100).holds(x) and (x == 0 or x >= 0.01),
    "must be a finite number, 0.01 or more, 100 or less, or 0 for greedy",
)
_LENGTHS = Values(
    lambda x: (
        _is(x, tuple, list)
        and len(x) > 0
        and all(_is(n, int) and 0 < n <= _MOST for n in x)
        and list(x) == sorted(set(x))
    ),
    "must be a tuple of one or more positive integers, each above the one before",
)


def _of(section: str, settings: Any, *left_out: str) -> dict[str, Values]:
    """Return the types of a settings class; it checks its ranges by itself."""
    types = {str: _TEXT, bool: _FLAG, float: _number()}
    types[int] = _integer(-_MOST)
    hints = get_type_hints(settings)
    return {
        f"{section}.{field.name}": types.get(hints[field.name], _TEXT)  # choices: text
        for field in fields(settings)
        if field.name not in left_out
    }


def _unset_or(values: Values, value: Any) -> bool:
    return value is None or values.holds(value)


TABLE: dict[str, Values] = {
    "seed": _integer(0),
    "num_steps": _integer(0),
    "env.name": _NAME,  # or the dotted name of a module, like the two below
    "env.workers": _integer(1, 4096),
    "env.timeout_s": _SECONDS,
    "env.max_attempts": _integer(1),
    "env.max_failed_groups": _integer(0),
    "prompt.wording": _NAME,  # the environment says which there are
    "prompt.layout": _choice("tree", "paper"),
    "prompt.max_tokens": _integer(64),
    "prompt.actions": _FLAG,
    "prompt.history": _integer(0),
    "policy.path": _TEXT,
    "policy.dtype": _choice("float32", "bfloat16"),
    "policy.attention": _choice("auto", *BACKENDS),
    "policy.reference": _choice("device", "host"),
    "policy.remat": _choice("none", "dots", "full", "offload"),
    "policy.logprob_chunk": _integer(1),
    **{f"mesh.{axis}": _AXIS for axis in AXES},
    "mesh.topology": _TEXT,
    "warm_start.recipe": _TEXT,
    "warm_start.retrain": _FLAG,
    "rollout.tasks_per_step": _integer(1),
    "rollout.max_turns": _integer(1),
    "rollout.temperature": _TEMPERATURE,
    "rollout.top_p": _number(0, 1, above_low=True),
    "rollout.max_tokens": _integer(1),
    "rollout.concurrency": _integer(1),
    "rollout.overlap": _choice(0, 1),
    "engine.name": _choice("jax", "vllm"),
    "engine.max_sequences": _integer(1),
    "engine.block_size": _integer(1),
    "engine.prefill_rows": _integer(1),
    "engine.decode_rows": _integer(0),
    "engine.decode_steps": _integer(1),
    "engine.vllm.executable": _NAME,
    "engine.vllm.urls": _ADDRESSES,
    "engine.vllm.replicas": _integer(1, 1024),
    "engine.vllm.devices": _NAMES,
    "engine.vllm.tensor_parallel_size": _integer(1, 1024),
    "engine.vllm.gpu_memory_utilization": _number(0, 1),
    "engine.vllm.arguments": _NAMES,
    "engine.vllm.transfer": _choice("files", "nccl"),
    "engine.vllm.weights_dir": _NAME,
    "engine.vllm.libnccl": _TEXT,
    "engine.vllm.start_timeout_s": _SECONDS,
    "engine.vllm.timeout_s": _SECONDS,
    "engine.vllm.max_attempts": _integer(1),
    "engine.vllm.logprob_tolerance": _number(0, 1e3),
    "grpo.group_size": _integer(1),
    "grpo.rule": _choice("corrected", "reference"),
    "grpo.scale": _choice("std", "none"),
    "grpo.aggregation": _choice("episode", "token"),
    "grpo.reward_scale": _number(1e-3, 1e6),
    "grpo.invalid_penalty": _number(0, 1e6),
    "grpo.clip_low": _number(0, 1, above_low=True),
    "grpo.clip_high": _number(0, 100, above_low=True),
    "grpo.dual_clip": _DUAL_CLIP,
    "grpo.kl_coef": _number(0, 1e3),
    "grpo.old_logprobs": _choice("sampler", "recompute"),
    "grpo.importance_cap": _CAP,
    "grpo.logprob_diff_warning": _number(0, 1e3),
    "grpo.minibatches": _integer(1),
    "grpo.learning_rate": _number(0, 1),
    "grpo.warmup_steps": _integer(0),
    "grpo.decay_steps": _integer(0),
    "grpo.weight_decay": _number(0, 1),
    "grpo.clip_norm": _number(1e-6, 1e6),
    "grpo.buckets": _LENGTHS,
    "grpo.tokens_per_microbatch": _integer(1),
    "strategy.name": _NAME,
    "strategy.bank": _TEXT,
    "strategy.max_skills": _integer(1),
    "strategy.candidates": _integer(1),
    "strategy.reservoir_size": _integer(2),
    "strategy.reservoir_min": _integer(1),
    "trial.preset": _choice(*PRESETS),
    **{
        key: Values(
            partial(_unset_or, values), f"{values.wanted}, or None for the preset's"
        )
        for key, values in _of("trial", TrialConfig, *bounds.NOT_KEYS).items()
    },
    "creator.name": _NAME,
    "creator.delay_steps": _integer(0),
    "creator.analysed_tasks": _integer(0),
    "creator.max_concurrency": _integer(1, 1024),
    "creator.author_attempts": _integer(1),
    "creator.prompts": _TEXT,
    "creator.replay": _TEXT,
    "creator.llm.name": _TEXT,
    "creator.llm.base_url": _ADDRESS,
    "creator.llm.api_key_variable": _TEXT,
    "creator.llm.structured": _FLAG,
    "creator.llm.temperature": _number(-1, 2),
    "creator.llm.max_tokens": _integer(1),
    "creator.llm.timeout_s": _SECONDS,
    **_of("creator.budget", Budget),
    **_of("creator.retry", RetryPolicy),
    "creator.inject": _choice(*KNOWN),
    "creator.inject_every": _integer(0),
    "eval.every": _integer(0),
    "eval.max_tasks": _integer(1),
    "eval.max_failed_share": _number(0, 1),
    "eval.splits": _SPLITS,
    "eval.panel": _NAMES,
    "checkpoint.every": _integer(1),
    "checkpoint.keep": _integer(1),
}


def table(environment: str) -> dict[str, Values]:
    """Return the values that each key may have, with those of the environment.

    Raises:
        ValueError: there is no such environment.
    """
    return TABLE | _of("env", environment_module(environment).Settings)


def _value_problems(config: ConfigDict) -> Iterator[str]:
    values = flatten(config.to_dict())
    try:
        rows = table(values.get("env.name", ""))
    except ValueError as error:
        yield f"env.{error}"
        return
    # A strategy or a creator of one's own may have keys of its own.
    free = tuple(
        f"{section}."
        for section, listed in (("strategy", STRATEGIES), ("creator", CREATORS))
        if values.get(f"{section}.name") not in listed
    )
    for key in sorted(rows.keys() - values.keys()):
        yield f"{key} is missing: add it, see reskill_jax/defaults.py"
    for key, value in sorted(values.items()):
        if key in rows and not rows[key].holds(value):
            yield f"{key}={value!r}: {rows[key].wanted}"
        if key not in rows and not key.startswith(free):
            yield f"{key}={value!r}: there is no such key: leave it out"


def _fit_problems(config: ConfigDict, sections: Container[str] | None) -> Iterator[str]:
    if sections is None and config.mesh.topology:
        yield (
            f"mesh.topology={config.mesh.topology!r} is for --mode=compile only: leave "
            "it empty to train, on the devices that are here"
        )
    for section, problems in _checks(config):
        if sections is None or section in sections:
            yield from (f"{section}.{problem}" for problem in problems)


def _checks(config: ConfigDict) -> Iterator[tuple[str, Iterable[str]]]:
    """Ask the parts; yields sections, and problems that begin with a key in them."""
    rollout, grpo, creator = config.rollout, config.grpo, config.creator
    processes = distributed.count()
    yield "env", _refusal(environment_module(config.env.name).Settings, config.env)
    yield "prompt", _wording_problems(config)
    yield from _trial_checks(config)
    limits = {
        "creator.budget": [*_refusal(Budget, creator.budget)],
        "creator.retry": [*_refusal(RetryPolicy, creator.retry)],
    }
    yield from limits.items()
    sizes = {axis: config.mesh[axis] for axis in AXES}
    yield "mesh", policy_settings.mesh_problems(**sizes)
    yield (
        "rollout",
        rollout_settings.problems(
            overlap=rollout.overlap,
            processes=processes,
            top_p=rollout.top_p,
            engine=config.engine.name,
        ),
    )
    yield (
        "grpo",
        grpo_settings.problems(
            **grpo,
            tasks_per_step=rollout.tasks_per_step,
            longest_turn=config.prompt.max_tokens + rollout.max_tokens,
        ),
    )
    yield "strategy", _module_problems(find_strategy, config.strategy.name)
    yield (
        "strategy",
        strategy_settings.problems(
            **config.strategy,
            group_size=grpo.group_size,
            trial_preset=config.trial.preset,
            creator=creator.name,
        ),
    )
    if creator.name not in CREATORS:
        yield "creator", _module_problems(find_creator, creator.name)
    elif creator.name != "offline" and asks_creator(config.strategy.name):
        own = ("delay_steps", "inject", "inject_every")
        yield (
            "creator",
            ()  # the same limits would be refused again
            if any(limits.values())
            else creator_settings.problems(
                **{k: v for k, v in creator.to_dict().items() if k not in own},
                engine=config.engine.name,
                push_timeout_s=config.engine.vllm.timeout_s,
            ),
        )
    if config.engine.name == "vllm":
        yield (
            "engine.vllm",
            vllm_settings.problems(
                **config.engine.vllm, processes=processes, overlap=rollout.overlap
            ),
        )
    yield from _source_checks(config)


def _trial_checks(config: ConfigDict) -> Iterator[tuple[str, Iterable[str]]]:
    """Check the settings of trials, and that they can tell so many candidates apart."""
    holds = holds_trials(config.strategy.name)
    shape = trial_shape(config)
    if not holds or shape.candidates == 1 or shape.group_size <= shape.candidates:
        # Nothing depends on its very bounds; those of other shapes take seconds.
        shape = bounds.nearest(shape._replace(candidates=1))
    try:
        trial = make_config(config.trial, shape)
    except ValueError as error:
        yield "trial", [str(error)]
        return
    yield (
        "trial",
        strategy_settings.trial_problems(
            strategy=config.strategy.name,
            min_episodes=trial.min_episodes,
            max_steps=trial.max_steps,
            episodes=config.rollout.tasks_per_step * config.grpo.group_size,
        ),
    )
    if holds and trial.mode == "paired":
        yield "strategy", bounds.problems(trial, shape)
    if config.strategy.name == "uniform" and trial.epsilon >= 0.5:
        yield (
            "strategy",
            [
                f"name='uniform' is the same as 'reskill' with trial.epsilon="
                f"{trial.epsilon:g}: use config.trial.preset='paper'"
            ],
        )


def _wording_problems(config: ConfigDict) -> Iterator[str]:
    try:
        wordings = load_environment(config).wordings
    except ValueError:
        return  # said already
    if (wording := config.prompt.wording) not in wordings:
        yield f"wording={wording!r}: choose one of {', '.join(map(repr, wordings))}"


def _module_problems(find: Callable[[str], Any], name: str) -> Iterator[str]:
    try:
        find(name)
    except ValueError as error:
        yield str(error)


def _source_checks(config: ConfigDict) -> Iterator[tuple[str, Iterable[str]]]:
    """Check where the weights to start from come from."""
    if config.policy.path:
        yield "policy", policy_settings.path_problems(config.policy.path)
    elif recipe := config.warm_start.recipe:
        # Imported only where it is needed: it brings household games.
        from reskill_jax.laboratory import settings  # noqa: PLC0415

        prompt = {key: config.prompt[key] for key in ("wording", "layout", "actions")}
        yield "warm_start", settings.problems(recipe, **prompt)
    else:
        yield (
            "policy",
            [
                "path='': name a Hugging Face directory with weights, or a recipe in "
                "config.warm_start.recipe"
            ],
        )


def _refusal(settings: Any, values: Mapping[str, Any]) -> Iterator[str]:
    """Yield why settings refuse to be made from those of the values that are theirs."""
    names = [field.name for field in fields(settings)]
    try:
        settings(**{name: values[name] for name in names if name in values})
    except ValueError as error:
        yield str(error)
