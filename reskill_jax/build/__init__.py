"""Builds the parts of a run from its configuration.

This is the only place, with `main` and `build_strategy`, that reads the configuration;
everything built here takes explicit arguments.
"""

from reskill_jax.build.learner import (
    loss_options,
    make_grpo,
    make_logprob_fn,
    make_meter,
    make_reference,
    make_reference_refresh,
    make_score_fn,
    reference_memory,
)
from reskill_jax.build.policy import (
    Policy,
    check_base,
    check_length,
    describe_base,
    engine_options,
    load_policy,
    lora_scale,
    make_adapters,
    policy_directory,
)
from reskill_jax.build.rollouts import (
    make_collector,
    make_engine,
    make_players,
    make_prompts,
    sampling,
)
from reskill_jax.build.tasks import (
    Tasks,
    context_resources,
    load_environment,
    load_panels,
    load_tasks,
)

__all__ = [
    "Policy",
    "Tasks",
    "check_base",
    "check_length",
    "context_resources",
    "describe_base",
    "engine_options",
    "load_environment",
    "load_panels",
    "load_policy",
    "load_tasks",
    "lora_scale",
    "loss_options",
    "make_adapters",
    "make_collector",
    "make_engine",
    "make_grpo",
    "make_logprob_fn",
    "make_meter",
    "make_players",
    "make_prompts",
    "make_reference",
    "make_reference_refresh",
    "make_score_fn",
    "policy_directory",
    "reference_memory",
    "sampling",
]
