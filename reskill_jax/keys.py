"""Which values each configuration key may have.

One table says it of every key; how values fit together is checked in `validate`.
"""

import math
import re
import sys
from collections.abc import Callable
from dataclasses import fields
from functools import partial
from typing import Any, Literal, NamedTuple, get_origin, get_type_hints

from reskill_jax.environments.registry import environment_module
from reskill_jax.grpo.aggregation import AGGREGATIONS
from reskill_jax.grpo.divergence import KL_ESTIMATORS
from reskill_jax.grpo.estimators import ESTIMATORS
from reskill_jax.grpo.overlong import OVERLONG
from reskill_jax.grpo.schedules import SCHEDULES
from reskill_jax.grpo.surrogates import LOSSES
from reskill_jax.laboratory.known_proposals import KNOWN
from reskill_jax.llm.budget import Budget
from reskill_jax.llm.embedders import NAMES as EMBEDDERS
from reskill_jax.llm.retry import RetryPolicy
from reskill_jax.memories.settings import METHODS
from reskill_jax.policy.lora import TARGETS
from reskill_jax.policy.ops.attention import BACKENDS
from reskill_jax.policy.sharding import AXES
from reskill_jax.report.trackers import TRACKERS
from reskill_jax.scrub import holds_credentials
from reskill_jax.trials import bounds
from reskill_jax.trials.trial_config import PRESETS, TrialConfig


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
            and abs(x) <= sys.float_info.max
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
    lambda x: (
        _NAMES.holds(x)
        and all(map(_ADDRESS.holds, x))
        and not any(map(holds_credentials, x))
        and len(set(x)) == len(x)
    ),
    "must be a tuple of different addresses such as 'http://localhost:8000', without "
    "a user or a password, which would be recorded",
)
_SPLITS = Values(
    lambda x: _NAMES.holds(x) and len(set(x)) == len(x),
    "must be a tuple of different strings, none of them empty",
)
_TARGETS = Values(
    lambda x: _SPLITS.holds(x) and bool(x) and set(x) <= set(TARGETS),
    f"must be a tuple of one or more different ones of {', '.join(map(repr, TARGETS))}",
)
_BEST = Values(
    lambda x: _is(x, str) and bool(re.fullmatch(r"|auto|[^/]+/.+", x)),
    "must be auto, a metric of evaluations such as 'dev/success', or empty",
)
_TRACKERS = Values(
    lambda x: _SPLITS.holds(x) and set(x) <= set(TRACKERS),
    f"must be a tuple of different ones of {', '.join(map(repr, TRACKERS))}",
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
_BAND = Values(
    lambda x: (
        _is(x, tuple, list)
        and len(x) in (0, 2)
        and all(map(_number(0, 1e6).holds, x))
        and (len(x) == 0 or (x[0] <= 1 <= x[1] and x[0] < x[1]))
    ),
    "must be a tuple of two numbers around 1, such as (0.5, 2.0), or () for no limits",
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

    def values(name: str) -> Values:
        kind = hints[name]
        if get_origin(kind) is Literal:
            return _TEXT
        wanted = "its type must be str, int, float or bool"
        return types.get(kind, Values(lambda x: False, wanted))

    return {
        f"{section}.{field.name}": values(field.name)
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
    "adapt.frozen": _FLAG,
    "adapt.split": _NAME,
    "policy.path": _TEXT,
    "policy.dtype": _choice("float32", "bfloat16"),
    "policy.attention": _choice("auto", *BACKENDS),
    "policy.reference": _choice("device", "host"),
    "policy.remat": _choice("none", "dots", "full", "offload"),
    "policy.logprob_chunk": _integer(1),
    "policy.lora.rank": _integer(0, 4096),
    "policy.lora.alpha": _number(0, 1e6, above_low=True),
    "policy.lora.targets": _TARGETS,
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
    "engine.max_sequences": _integer(1, 65536),  # their blocks are counted in int32
    "engine.block_size": _integer(1, 65536),
    "engine.prefill_rows": _integer(1, 65536),
    "engine.decode_rows": _integer(0, 65536),
    "engine.decode_steps": _integer(1),
    "engine.vllm.executable": _NAME,
    "engine.vllm.urls": _ADDRESSES,
    "engine.vllm.replicas": _integer(1, 1024),
    "engine.vllm.devices": _NAMES,
    "engine.vllm.tensor_parallel_size": _integer(1, 1024),
    "engine.vllm.gpu_memory_utilization": _number(0, 1),
    "engine.vllm.colocate": _FLAG,
    "engine.vllm.trainer_memory": _number(0, 1),
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
    "grpo.estimator": _choice(*ESTIMATORS),
    "grpo.pass_k": _integer(1),
    "grpo.gigpo.omega": _number(0, 1e3),
    "grpo.gigpo.gamma": _number(0, 1),
    "grpo.gigpo.mode": _choice("mean_norm", "mean_std_norm"),
    "grpo.drop_zero_variance": _FLAG,
    "grpo.loss": _choice(*LOSSES),
    "grpo.aggregation": _choice(*AGGREGATIONS),
    "grpo.constant_length": _integer(0),
    "grpo.reward_scale": _number(1e-3, 1e6),
    "grpo.invalid_penalty": _number(0, 1e6),
    "grpo.clip_low": _number(0, 1, above_low=True),
    "grpo.clip_high": _number(0, 100, above_low=True),
    "grpo.dual_clip": _DUAL_CLIP,
    "grpo.dppo_delta": _number(0, 1, above_low=True),
    "grpo.kl_coef": _number(0, 1e3),
    "grpo.kl_estimator": _choice(*KL_ESTIMATORS),
    "grpo.kl_in": _choice("loss", "reward"),
    "grpo.reference_refresh": _integer(0),
    "grpo.reference_mix": _number(0, 1, above_low=True),
    "grpo.entropy_coef": _number(0, 1e3),
    "grpo.old_logprobs": _choice("sampler", "recompute"),
    "grpo.importance_cap": _CAP,
    "grpo.token_mask": _BAND,
    "grpo.episode_mask": _BAND,
    "grpo.overlong": _choice(*OVERLONG),
    "grpo.overlong_buffer": _number(0, 1, above_low=True),
    "grpo.overlong_penalty": _number(0, 1e6),
    "grpo.logprob_diff_warning": _number(0, 1e3),
    "grpo.minibatches": _integer(1),
    "grpo.epochs": _integer(1, 1000),
    "grpo.learning_rate": _number(0, 1),
    "grpo.warmup_steps": _integer(0),
    "grpo.schedule": _choice(*SCHEDULES),
    "grpo.decay_steps": _integer(0),
    "grpo.min_learning_rate": _number(0, 1),
    "grpo.weight_decay": _number(0, 1),
    "grpo.clip_norm": _number(1e-6, 1e6),
    "grpo.buckets": _LENGTHS,
    # Micro-batches are filled up to it: the most is half a gigabyte of padding.
    "grpo.tokens_per_microbatch": _integer(1, 2**24),
    "strategy.name": _NAME,
    "strategy.bank": _TEXT,
    "strategy.max_skills": _integer(1),
    "strategy.candidates": _integer(1),
    "strategy.reservoir_size": _integer(2),
    "strategy.reservoir_min": _integer(1),
    **{
        key: values
        for name, settings in METHODS.items()
        for key, values in _of(f"strategy.{name}", settings).items()
    },
    "meter.share": _number(0, 1),
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
    "creator.goals": _FLAG,
    "creator.rejected_edits": _integer(0),
    "creator.prompts": _TEXT,
    "creator.replay": _TEXT,
    "creator.llm.name": _TEXT,
    "creator.llm.base_url": _ADDRESS,
    "creator.llm.api_key_variable": _TEXT,
    "creator.llm.structured": _FLAG,
    "creator.llm.limits": _FLAG,
    "creator.llm.temperature": _number(-1, 2),
    "creator.llm.max_tokens": _integer(1),
    "creator.llm.timeout_s": _SECONDS,
    **_of("creator.budget", Budget),
    **_of("creator.retry", RetryPolicy),
    "creator.inject": _choice(*KNOWN),
    "creator.inject_every": _integer(0),
    "embedder.name": _choice(*EMBEDDERS),
    "embedder.encoder": _TEXT,
    "embedder.model": _TEXT,
    "embedder.base_url": _ADDRESS,
    "embedder.api_key_variable": _TEXT,
    "embedder.timeout_s": _SECONDS,
    "embedder.max_attempts": _integer(1, 100),
    "embedder.max_calls": _integer(0),
    "eval.every": _integer(0),
    "eval.max_tasks": _integer(1),
    "eval.temperature": _TEMPERATURE,
    "eval.samples": _integer(1, 1024),
    "eval.max_failed_share": _number(0, 1),
    "eval.context": _choice("accepted", "none"),
    "eval.splits": _SPLITS,
    "eval.panel": _NAMES,
    "report.trackers": _TRACKERS,
    "checkpoint.every": _integer(1),
    "checkpoint.keep": _integer(1),
    "checkpoint.best": _BEST,
}


def table(environment: str) -> dict[str, Values]:
    """Return the values that each key may have, with those of the environment.

    Raises:
        ValueError: there is no such environment.
    """
    return TABLE | _of("env", environment_module(environment).Settings)
