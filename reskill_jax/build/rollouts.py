"""What plays episodes: prompts, engine, environments, collector."""

from collections.abc import Sequence
from contextlib import ExitStack

from ml_collections import ConfigDict

from reskill_jax.build.policy import Policy, engine_options
from reskill_jax.build.sections import section
from reskill_jax.environments.pool import EnvironmentPool
from reskill_jax.environments.protocol import EnvironmentSpec
from reskill_jax.environments.remote import RemotePlayers
from reskill_jax.policy.decoder import Params
from reskill_jax.policy.lora import Adapted
from reskill_jax.policy.sharding import (
    engine_mesh,
    platform_of,
    row_shards,
)
from reskill_jax.policy.tokenizer import Tokenizer
from reskill_jax.rollout.collector import Collector, Players
from reskill_jax.rollout.engine import Engine, Sampling
from reskill_jax.rollout.jax.engine import JaxEngine
from reskill_jax.rollout.prompts import PromptBuilder
from reskill_jax.terminal import activity


def make_prompts(
    config: ConfigDict, environment: EnvironmentSpec, tokenizer: Tokenizer
) -> PromptBuilder:
    """Build the prompts of a run.

    Raises:
        ValueError: the environment has no such wording.
    """
    wordings = environment.wordings
    if config.prompt.wording not in wordings:
        raise ValueError(
            f"config.prompt.wording={config.prompt.wording!r}: choose one of "
            f"{list(wordings)}, which {config.env.name} has"
        )
    with section(config, "prompt"):
        return PromptBuilder(
            tokenizer,
            wording=wordings[config.prompt.wording],
            layout=config.prompt.layout,
            max_tokens=config.prompt.max_tokens,
            max_turns=config.rollout.max_turns,
            history=config.prompt.history,
            show_actions=config.prompt.actions,
        )


def make_engine(
    config: ConfigDict,
    policy: Policy,
    params: Params | Adapted,
    version: int,
    resources: ExitStack,
) -> tuple[Engine, Sequence[str]]:
    """Build the engine that serves `params`; `resources` closes it.

    Returns:
        The engine, and the addresses of its servers, which a creator may ask as well;
        none for an engine in this process.
    """
    engine: Engine
    servers: Sequence[str] = ()
    if config.engine.name == "vllm":
        # The extra `vllm` is needed only here.
        from reskill_jax.rollout.vllm.factory import (  # noqa: PLC0415
            VllmSettings,
            make_vllm_engine,
        )

        starting = activity("starting the vLLM servers and bringing them the weights")
        with section(config, "engine.vllm"), starting:
            vllm = make_vllm_engine(
                VllmSettings(**config.engine.vllm),
                model=policy.directory,
                decoder=policy.config,
                params=params,
                mesh=policy.mesh,
                version=version,
                eos_ids=policy.eos_ids,
                max_length=config.prompt.max_tokens + config.rollout.max_tokens,
                max_sequences=config.rollout.concurrency,
                resources=resources,
            )
        engine, servers = vllm, vllm.urls
    else:
        mesh = engine_mesh(policy.mesh, policy.config)
        engine = JaxEngine(
            policy.config,
            params,
            eos_ids=policy.eos_ids,
            version=version,
            **engine_options(config, platform_of(policy.mesh), row_shards(mesh)),
            mesh=mesh,
        )
    resources.callback(engine.close)
    return engine, servers


def make_players(
    config: ConfigDict, environment: EnvironmentSpec, resources: ExitStack
) -> Players:
    """Start what plays: worker processes, or coroutines here; `resources` ends them."""
    with section(config, "env"):
        resources.enter_context(environment.service())
    if environment.remote:
        return RemotePlayers(environment.make, timeout_s=config.env.timeout_s)
    pool = EnvironmentPool(
        environment.make,
        workers=config.env.workers,
        timeout_s=config.env.timeout_s,
        max_attempts=config.env.max_attempts,
    )
    return resources.enter_context(pool)


def make_collector(
    config: ConfigDict,
    environment: EnvironmentSpec,
    policy: Policy,
    engine: Engine,
    resources: ExitStack,
) -> Collector:
    """Build what plays episodes; `resources` ends its processes."""
    return Collector(
        engine=engine,
        players=make_players(config, environment, resources),
        prompts=make_prompts(config, environment, policy.tokenizer),
        action_format=environment.action_format,
        max_turns=config.rollout.max_turns,
        concurrency=config.rollout.concurrency,
        max_attempts=config.env.max_attempts,
    )


def sampling(config: ConfigDict) -> Sampling:
    """Return how training rollouts are sampled."""
    return Sampling(
        temperature=config.rollout.temperature,
        top_p=config.rollout.top_p,
        max_tokens=config.rollout.max_tokens,
    )
