"""Builds the parts of a run from its configuration.

This is the only place, with `main`, that reads the configuration; everything built here
takes explicit arguments.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from reskill_jax.environments.alfworld.environment import (
    AlfworldEnvironment,
    find_games,
)
from reskill_jax.environments.alfworld.games import cached_houses
from reskill_jax.environments.pool import EnvironmentPool
from reskill_jax.environments.protocol import Task
from reskill_jax.grpo.optimizer import LogprobFn, make_optimizer, schedule
from reskill_jax.grpo.scoring import make_logprobs
from reskill_jax.grpo.update import Update, make_update
from reskill_jax.policy.decoder import Params
from reskill_jax.policy.decoder_config import DecoderConfig
from reskill_jax.policy.ops.attention import choose_backend
from reskill_jax.policy.sharding import (
    AXES,
    engine_mesh,
    make_mesh,
    move,
    platform_of,
)
from reskill_jax.policy.tokenizer import Tokenizer
from reskill_jax.policy.weights import load, on_mesh
from reskill_jax.rollout.collector import Collector
from reskill_jax.rollout.engine import Engine, Sampling
from reskill_jax.rollout.jax.engine import JaxEngine
from reskill_jax.rollout.prompts import PromptBuilder


@dataclass(frozen=True)
class TaskSets:
    """The tasks of a run.

    Attributes:
        train: sampled from in training.
        held_out: by split, for evaluation.
    """

    train: list[Task]
    held_out: dict[str, list[Task]]


def load_tasks(config: ConfigDict) -> TaskSets:
    """Find the games, building houses first where the configuration asks for them."""
    root = config.env.root or None
    if config.env.houses and root is None:
        root = str(
            cached_houses(
                config.env.houses,
                train=config.env.houses_train,
                held_out=config.env.houses_eval,
                seed=config.env.houses_seed,
                workers=config.env.workers,
            )
        )
    return TaskSets(
        train=find_games(root, "train"),
        held_out={
            split: find_games(root, split, limit=config.eval.max_tasks)
            for split in config.eval.splits
        },
    )


def sample_tasks(tasks: list[Task], count: int, seed: int, step: int) -> list[Task]:
    """Return the tasks of a step: a function of (seed, step), epoch by epoch.

    Every epoch is a permutation of its own; a batch may span two.
    """
    first, last = step * count, (step + 1) * count - 1
    orders = {
        epoch: np.random.default_rng((seed, epoch)).permutation(len(tasks))
        for epoch in range(first // len(tasks), last // len(tasks) + 1)
    }
    places = (divmod(place, len(tasks)) for place in range(first, last + 1))
    return [tasks[orders[epoch][index]] for epoch, index in places]


@dataclass(frozen=True)
class Policy:
    """The decoder that a run starts from.

    Attributes:
        directory: the Hugging Face directory that it came from.
        config: its shape.
        params: its weights, float32.
        tokenizer: its tokenizer.
        mesh: the devices that they are on; None for one.
    """

    directory: Path
    config: DecoderConfig
    params: Params
    tokenizer: Tokenizer
    mesh: Mesh | None = None


def policy_directory(config: ConfigDict) -> Path:
    """Return the Hugging Face directory that a run starts from.

    A warm start that is missing is trained first.
    """
    if config.policy.path:
        return Path(config.policy.path)
    from reskill_jax.laboratory.recipe import RECIPES  # noqa: PLC0415
    from reskill_jax.laboratory.warm_start import find_or_train  # noqa: PLC0415

    return find_or_train(
        RECIPES[config.warm_start.recipe],
        workers=config.env.workers,
        retrain=config.warm_start.retrain,
    )


def load_policy(config: ConfigDict) -> Policy:
    """Load the weights to start from onto the run's devices.

    Raises:
        ValueError: the directory's parts do not fit each other, or not the devices.
    """
    mesh = make_mesh([config.mesh[axis] for axis in AXES])
    directory = policy_directory(config)
    decoder, params = load(directory, on_mesh(mesh))
    decoder = replace(decoder, dtype=config.policy.dtype)
    tokenizer = Tokenizer.load(directory)
    if tokenizer.vocab_size > decoder.vocab_size:
        raise ValueError(
            f"{directory}: the tokenizer has ids up to {tokenizer.vocab_size - 1}, the "
            f"model embeds only vocab_size={decoder.vocab_size}: they are not of the "
            "same model"
        )
    return Policy(directory, decoder, params, tokenizer, mesh)


def make_reference(config: ConfigDict, policy: Policy) -> Params | None:
    """Copy the starting weights for the KL term, in the compute dtype; None without.

    Only forward passes need them, which would round float32 weights anyway.
    """
    if not config.grpo.kl_coef:
        return None

    def copy(x: jax.Array) -> jax.Array:
        x = jnp.array(x, policy.config.dtype, copy=True)
        return move(x, "pinned_host") if config.policy.reference == "host" else x

    return jax.tree.map(copy, policy.params)


def make_prompts(config: ConfigDict, tokenizer: Tokenizer) -> PromptBuilder:
    """Build the prompts of a run."""
    return PromptBuilder(
        tokenizer,
        wording=config.prompt.wording,
        layout=config.prompt.layout,
        max_tokens=config.prompt.max_tokens,
        max_turns=config.rollout.max_turns,
        history=config.prompt.history,
        show_actions=config.prompt.actions,
    )


def make_engine(
    config: ConfigDict,
    policy: Policy,
    params: Params,
    version: int,
    resources: ExitStack,
) -> Engine:
    """Build the engine that serves `params`; `resources` closes it."""
    engine: Engine
    if config.engine.name == "vllm":
        # The extra `vllm` is needed only here.
        from reskill_jax.rollout.vllm.factory import (  # noqa: PLC0415
            VllmSettings,
            make_vllm_engine,
        )

        with _section(config, "engine.vllm"):
            engine = make_vllm_engine(
                VllmSettings(**config.engine.vllm),
                model=policy.directory,
                decoder=policy.config,
                params=params,
                mesh=policy.mesh,
                version=version,
                eos_id=policy.tokenizer.eos_id,
                max_length=config.prompt.max_tokens + config.rollout.max_tokens,
                max_sequences=config.rollout.concurrency,
                resources=resources,
            )
    else:
        engine = JaxEngine(
            policy.config,
            params,
            eos_id=policy.tokenizer.eos_id,
            version=version,
            **engine_options(config),
            mesh=engine_mesh(policy.mesh, policy.config),
        )
    resources.callback(engine.close)
    return engine


@contextmanager
def _section(config: ConfigDict, name: str) -> Iterator[None]:
    """Put the section before errors of lower modules that begin with one of its keys.

    Raises:
        ValueError: the same one, which names the whole key.
    """
    try:
        yield
    except ValueError as error:
        if str(error).partition("=")[0] not in config[name]:
            raise
        raise ValueError(f"config.{name}.{error}") from error


def engine_options(config: ConfigDict) -> dict[str, int]:
    """Return the sizes of the engine's programs and of its cache."""
    keys = (
        "max_sequences",
        "block_size",
        "prefill_rows",
        "decode_rows",
        "decode_steps",
    )
    return {key: config.engine[key] for key in keys} | {"context": _context(config)}


def _context(config: ConfigDict) -> int:
    """Return the longest prompt and response, in whole blocks of the engine."""
    chunk = config.engine.block_size
    longest = config.prompt.max_tokens + config.rollout.max_tokens
    return -(-longest // chunk) * chunk


def make_pool(config: ConfigDict) -> EnvironmentPool:
    """Start the processes that play."""
    return EnvironmentPool(
        AlfworldEnvironment,
        workers=config.env.workers,
        limit=config.env.timeout_s,
        max_attempts=config.env.max_attempts,
    )


def make_collector(
    config: ConfigDict,
    policy: Policy,
    params: Params,
    version: int,
    resources: ExitStack,
) -> Collector:
    """Build what plays episodes; `resources` closes engine and processes.

    Args:
        config: of the run.
        policy: what it started from.
        params: its weights now.
        version: of those, the number of training steps.
        resources: keeps what has to be closed.
    """
    pool = resources.enter_context(make_pool(config))
    return Collector(
        engine=make_engine(config, policy, params, version, resources),
        pool=pool,
        prompts=make_prompts(config, policy.tokenizer),
        max_turns=config.rollout.max_turns,
        concurrency=config.rollout.concurrency,
    )


def sampling(config: ConfigDict) -> Sampling:
    """Return how training rollouts are sampled."""
    return Sampling(
        temperature=config.rollout.temperature,
        top_p=config.rollout.top_p,
        max_tokens=config.rollout.max_tokens,
    )


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
        scale=grpo.scale,
        invalid_penalty=grpo.invalid_penalty,
        aggregation=grpo.aggregation,
        old_logprobs=grpo.old_logprobs,
        minibatches=grpo.minibatches,
        **loss_options(config),
        mesh=mesh,
    )
    return tx, update


def make_logprob_fn(
    config: ConfigDict, decoder: DecoderConfig, mesh: Mesh | None
) -> LogprobFn:
    """Build what scores tokens in training."""
    return make_logprobs(
        decoder,
        temperature=config.rollout.temperature or 1.0,  # as engines report it
        chunk=config.policy.logprob_chunk,
        remat=config.policy.remat,
        attention_backend=choose_backend(
            config.policy.attention, platform_of(mesh), decoder.dtype
        ),
        mesh=mesh,
    )


def loss_options(config: ConfigDict) -> dict[str, float]:
    """Return the options of the loss."""
    keys = ("clip_low", "clip_high", "dual_clip", "kl_coef", "importance_cap")
    return {key: config.grpo[key] for key in keys}


def due(step: int, every: int, last: int) -> bool:
    """Tell whether something that happens every so many steps happens at `step`."""
    return step == last or (every > 0 and step % every == 0)


def derive(seed: int, *path: int | str) -> int:
    """Derive an independent seed, 31 bits, for one use at one place of a run."""
    words = [seed, *(_number(part) for part in path)]
    return int(np.random.SeedSequence(words).generate_state(1)[0] >> 1)


def _number(part: int | str) -> int:
    return part if isinstance(part, int) else int.from_bytes(part.encode(), "little")
