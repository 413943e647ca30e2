"""What trains the policy: reference weights, optimiser, update."""

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from reskill_jax.build.policy import Policy
from reskill_jax.build.sections import section
from reskill_jax.grpo.estimators import Estimator
from reskill_jax.grpo.optimizer import (
    LogprobFn,
    make_optimizer,
    schedule,
)
from reskill_jax.grpo.scoring import make_logprobs
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
    """
    if not config.grpo.kl_coef:
        return None
    if policy.frozen is not None:
        return policy.frozen

    def copy(x: jax.Array) -> jax.Array:
        x = jnp.array(x, policy.config.dtype, copy=True)
        return move(x, "pinned_host") if config.policy.reference == "host" else x

    leaves = jax.tree.leaves(policy.params)
    if all(isinstance(leaf, jax.Array) for leaf in leaves):
        return jax.tree.map(copy, policy.params)
    place = on_mesh(policy.mesh)
    _, params = load(policy.directory, lambda *parameter: copy(place(*parameter)))
    return params


def make_grpo(
    config: ConfigDict, decoder: DecoderConfig, mesh: Mesh | None = None
) -> tuple[optax.GradientTransformation, Update]:
    """Build the optimiser and the GRPO update."""
    grpo = config.grpo
    tx = make_optimizer(
        schedule(grpo.learning_rate, warmup=grpo.warmup_steps, decay=grpo.decay_steps),
        clip_norm=grpo.clip_norm,
        weight_decay=grpo.weight_decay,
    )
    update = make_update(
        make_logprob_fn(config, decoder, mesh),
        tx,
        buckets=grpo.buckets,
        tokens_per_microbatch=grpo.tokens_per_microbatch,
        rule=grpo.rule,
        estimator=Estimator(grpo.estimator, pass_k=grpo.pass_k, **grpo.gigpo.to_dict()),
        reward_scale=grpo.reward_scale,
        invalid_penalty=grpo.invalid_penalty,
        drop_zero_variance=grpo.drop_zero_variance,
        aggregation=grpo.aggregation,
        old_logprobs=grpo.old_logprobs,
        minibatches=grpo.minibatches,
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
    """Build what scores tokens in training.

    Raises:
        ValueError: attention cannot be computed on these devices as configured.
    """
    with section(config, "policy"):
        backend = choose_backend(
            config.policy.attention, platform_of(mesh), decoder.dtype
        )
    return make_logprobs(
        decoder,
        temperature=config.rollout.temperature or 1.0,  # as engines report it
        compute=Compute(
            remat=config.policy.remat,
            attention_backend=backend,
            logprob_chunk=config.policy.logprob_chunk,
        ),
    )


def loss_options(config: ConfigDict) -> dict[str, float]:
    """Return the options of the loss."""
    keys = ("clip_low", "clip_high", "dual_clip", "kl_coef", "importance_cap")
    options = {key: config.grpo[key] for key in keys}
    # 0 is no bound: the loss limits ratios to e^20, about 5e8, in any case.
    options["dual_clip"] = options["dual_clip"] or 1e9
    return options
