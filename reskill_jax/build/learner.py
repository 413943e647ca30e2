"""What trains the policy: reference weights, optimiser, update."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from reskill_jax.build.policy import Policy
from reskill_jax.build.sections import section
from reskill_jax.grpo.optimizer import (
    LogprobFn,
    ScoreFn,
    make_optimizer,
)
from reskill_jax.grpo.reference import Refresh, make_refresh
from reskill_jax.grpo.schedules import make_schedule
from reskill_jax.grpo.scoring import make_scores
from reskill_jax.grpo.skill_meter import SkillMeter, make_skill_meter
from reskill_jax.grpo.update import Update, make_update
from reskill_jax.policy.compute import Compute
from reskill_jax.policy.decoder import Params
from reskill_jax.policy.decoder_config import DecoderConfig
from reskill_jax.policy.lora import Adapted
from reskill_jax.policy.ops.attention import choose_backend
from reskill_jax.policy.sharding import (
    move,
    platform_of,
)
from reskill_jax.policy.weights import load, on_mesh


def make_reference(config: ConfigDict, policy: Policy) -> Params | Adapted | None:
    """Copy the starting weights for the KL term, in the compute dtype; None without.

    Only forward passes need them, which would round float32 weights anyway. Where the
    policy only describes its weights, they are read again, one parameter at a time in
    float32. With adapters, it is their base itself.

    One that is set anew from time to time is in checkpoints: where the policy is only
    described, so is that. With adapters, it is their base with a copy of them.
    """
    if not config.grpo.kl_coef:
        return None
    moves = config.grpo.reference_refresh > 0
    leaves = jax.tree.leaves(policy.params)
    made = all(isinstance(leaf, jax.Array) for leaf in leaves)
    if policy.frozen is not None:
        own = jax.tree.map(jnp.copy, policy.params) if made else policy.params
        return policy.join(own) if moves else policy.frozen
    if moves and not made:
        return jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(
                x.shape, policy.config.dtype, sharding=x.sharding
            ),
            policy.params,
        )

    def copy(x: jax.Array) -> jax.Array:
        x = jnp.array(x, policy.config.dtype, copy=True)
        return move(x, "pinned_host") if config.policy.reference == "host" else x

    if made:
        return jax.tree.map(copy, policy.params)
    place = on_mesh(policy.mesh)
    _, params = load(policy.directory, lambda *parameter: copy(place(*parameter)))
    return params


def make_reference_refresh(config: ConfigDict) -> Refresh:
    """Build what sets the reference anew after a step, where that is due."""
    grpo = config.grpo
    return make_refresh(
        grpo.reference_refresh, grpo.reference_mix, reference_memory(config)
    )


def reference_memory(config: ConfigDict) -> str:
    """Return the memory that the reference waits in."""
    return "pinned_host" if config.policy.reference == "host" else "device"


def make_grpo(
    config: ConfigDict, decoder: DecoderConfig, mesh: Mesh | None = None
) -> tuple[optax.GradientTransformation, Update]:
    """Build the optimiser and the GRPO update."""
    grpo = config.grpo
    most_tokens = config.rollout.max_turns * config.rollout.max_tokens
    rate = make_schedule(
        grpo.learning_rate,
        kind=grpo.schedule,
        warmup=grpo.warmup_steps,
        decay=grpo.decay_steps,
        floor=grpo.min_learning_rate,
    )
    tx = make_optimizer(
        rate,
        clip_norm=grpo.clip_norm,
        weight_decay=grpo.weight_decay,
    )
    update = make_update(
        make_logprob_fn(config, decoder, mesh),
        tx,
        score_fn=make_score_fn(config, decoder, mesh),
        buckets=grpo.buckets,
        tokens_per_microbatch=grpo.tokens_per_microbatch,
        rule=grpo.rule,
        scale=grpo.scale,
        reward_scale=grpo.reward_scale,
        invalid_penalty=grpo.invalid_penalty,
        aggregation=grpo.aggregation,
        longest_episode=grpo.constant_length or most_tokens,
        old_logprobs=grpo.old_logprobs,
        minibatches=grpo.minibatches,
        epochs=grpo.epochs,
        learning_rate=rate,
        overlong=grpo.overlong,
        overlong_buffer=grpo.overlong_buffer,
        overlong_penalty=grpo.overlong_penalty,
        longest_response=config.rollout.max_tokens,
        kl_in=grpo.kl_in,
        token_mask=grpo.token_mask,
        episode_mask=grpo.episode_mask,
        **loss_options(config),
    )
    return tx, update


def make_meter(
    config: ConfigDict, decoder: DecoderConfig, mesh: Mesh | None = None
) -> SkillMeter:
    """Build what scores responses without one of their skills."""
    return make_skill_meter(
        make_logprob_fn(config, decoder, mesh),
        buckets=config.grpo.buckets,
        share=config.meter.share,
    )


def make_logprob_fn(
    config: ConfigDict, decoder: DecoderConfig, mesh: Mesh | None
) -> LogprobFn:
    """Build what gives log-probs in training; see `make_score_fn`."""
    score_fn = make_score_fn(config, decoder, mesh)
    return lambda params, packed: score_fn(params, packed)[0]


def make_score_fn(
    config: ConfigDict, decoder: DecoderConfig, mesh: Mesh | None
) -> ScoreFn:
    """Build what gives log-probs and entropies in training.

    Raises:
        ValueError: attention cannot be computed on these devices as configured.
    """
    with section(config, "policy"):
        backend = choose_backend(
            config.policy.attention, platform_of(mesh), decoder.dtype
        )
    return make_scores(
        decoder,
        temperature=config.rollout.temperature or 1.0,  # as engines report it
        compute=Compute(
            remat=config.policy.remat,
            attention_backend=backend,
            logprob_chunk=config.policy.logprob_chunk,
        ),
    )


_LOSS = (
    "loss",
    "clip_low",
    "clip_high",
    "dual_clip",
    "dppo_delta",
    "kl_coef",
    "kl_estimator",
    "importance_cap",
    "entropy_coef",
)


def loss_options(config: ConfigDict) -> dict[str, Any]:
    """Return the options of the loss."""
    options = {key: config.grpo[key] for key in _LOSS}
    # 0 is no bound: the loss limits ratios to e^20, about 5e8, in any case.
    options["dual_clip"] = options["dual_clip"] or 1e9
    return options
