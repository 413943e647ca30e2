"""Builds the parts of a run from its configuration.

This is the only place, with `main`, that reads the configuration; everything built here
takes explicit arguments.
"""

import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from reskill_jax import distributed
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
from reskill_jax.policy.compute import Compute
from reskill_jax.policy.decoder import Params
from reskill_jax.policy.decoder_config import DecoderConfig
from reskill_jax.policy.logprobs import token_logprobs
from reskill_jax.policy.ops.attention import choose_backend
from reskill_jax.policy.sharding import (
    AXES,
    constrain,
    engine_mesh,
    make_mesh,
    move,
    platform_of,
    row_shards,
)
from reskill_jax.policy.tokenizer import Tokenizer
from reskill_jax.policy.weights import load, on_mesh
from reskill_jax.rollout.collector import Collector
from reskill_jax.rollout.engine import Engine, Sampling
from reskill_jax.rollout.jax.engine import JaxEngine
from reskill_jax.rollout.prompts import PromptBuilder

if TYPE_CHECKING:
    from reskill_jax.rollout.vllm.engine import Transfer


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

    It makes the warm start first if the run needs one and there is none.
    """
    if config.policy.path:
        return Path(config.policy.path)
    from reskill_jax.laboratory.recipe import RECIPES  # noqa: PLC0415
    from reskill_jax.laboratory.warm_start import obtain  # noqa: PLC0415

    return obtain(
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
        engine = _make_vllm(config, policy, params, version, resources)
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


def _make_vllm(
    config: ConfigDict,
    policy: Policy,
    params: Params,
    version: int,
    resources: ExitStack,
) -> Engine:
    """Start vLLM servers, or find those that run, and bring them the weights.

    Every process has its own, on its own node, or its share of those that run.

    Raises:
        ValueError: processes of one node would start servers on the same devices.
    """
    # The extra `vllm` is needed only here.
    from reskill_jax.rollout.vllm.engine import VllmEngine  # noqa: PLC0415
    from reskill_jax.rollout.vllm.server import (  # noqa: PLC0415
        Server,
        ServerOptions,
    )

    vllm = config.engine.vllm
    if vllm.devices and not vllm.urls:
        _refuse_shared_nodes(vllm.devices)
    # Paths of sockets are short by law, so not in the workdir.
    places = Path(tempfile.mkdtemp(prefix="reskill-"))
    resources.callback(shutil.rmtree, places, ignore_errors=True)
    transfer = _make_transfer(config, policy, Path(vllm.weights_dir) / places.name)
    servers: list[Server | str] = [
        vllm.urls[index] for index in distributed.share(len(vllm.urls))
    ]
    for number in range(0 if vllm.urls else vllm.replicas):
        devices = {"CUDA_VISIBLE_DEVICES": vllm.devices[number]} if vllm.devices else {}
        options = ServerOptions(
            executable=vllm.executable,
            model=policy.directory.absolute(),
            dtype=policy.config.dtype,
            context=config.prompt.max_tokens + config.rollout.max_tokens,
            sequences=config.rollout.concurrency,
            tensor_parallel_size=vllm.tensor_parallel_size,
            transfer=vllm.transfer,
            gpu_memory_utilization=vllm.gpu_memory_utilization,
            arguments=vllm.arguments,
            environment=devices,
        )
        server = Server(options, places / str(number))
        resources.callback(server.stop)
        servers.append(server)
    return VllmEngine(
        policy.config,
        params,
        servers=servers,
        transfer=transfer,
        eos_id=policy.tokenizer.eos_id,
        score=_make_score(policy),
        logprob_tolerance=vllm.logprob_tolerance,
        version=version,
        start_timeout_s=vllm.start_timeout_s,
        timeout=vllm.timeout_s,
        attempts=vllm.max_attempts,
    )


def _refuse_shared_nodes(devices: Sequence[str]) -> None:
    """Raise if several processes run where servers get these devices."""
    nodes = distributed.gather(os.uname().nodename)
    if shared := sorted({node for node in nodes if nodes.count(node) > 1}):
        raise ValueError(
            f"config.engine.vllm.devices={tuple(devices)}: several trainer processes "
            f"run on {', '.join(shared)} and would start servers on the same devices: "
            "start one process per node, which may have several devices, or name "
            "servers that run already in config.engine.vllm.urls"
        )


def _make_transfer(config: ConfigDict, policy: Policy, root: Path) -> "Transfer[Any]":
    """Build what brings weights to vLLM servers; `root` is for files."""
    from reskill_jax.rollout.vllm.files_transfer import FilesTransfer  # noqa: PLC0415
    from reskill_jax.rollout.vllm.nccl import find_library  # noqa: PLC0415
    from reskill_jax.rollout.vllm.nccl_transfer import NcclTransfer  # noqa: PLC0415

    vllm = config.engine.vllm
    if vllm.transfer == "files":
        return FilesTransfer(policy.config, root)
    if (platform := platform_of(policy.mesh)) != "gpu":
        raise ValueError(
            f"config.engine.vllm.transfer={vllm.transfer!r} is for trainers on GPUs, "
            f"and this one computes on {platform}: use 'files'"
        )
    return NcclTransfer(
        policy.config,
        mesh=policy.mesh,
        library=vllm.libnccl or find_library(vllm.executable),
        timeout=vllm.timeout_s,
    )


def _make_score(policy: Policy) -> Callable[[Params, Sequence[int]], np.ndarray]:
    """Build what scores a text: (params, tokens [n]) -> log-probs of tokens[1:].

    All processes score the same texts together, in the same order.
    """
    rows = row_shards(policy.mesh)  # copies of the text: every device needs one

    @jax.jit
    def logprobs(params: Params, text: jax.Array) -> jax.Array:
        text = jnp.broadcast_to(text, (rows, *text.shape))
        tokens, targets = text[:, :-1], text[:, 1:]
        length = tokens.shape[1]
        positions = jnp.broadcast_to(jnp.arange(length), tokens.shape)
        visible_end = jnp.full_like(tokens, length)
        found, _ = token_logprobs(
            policy.config, params, tokens, positions, visible_end, targets
        )
        return constrain(found[0])  # all of it everywhere

    return lambda params, tokens: np.asarray(
        logprobs(params, np.array(tokens, np.int32))
    )


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
    )
    return tx, update


def make_logprob_fn(
    config: ConfigDict, decoder: DecoderConfig, mesh: Mesh | None
) -> LogprobFn:
    """Build what scores tokens in training.

    Raises:
        ValueError: attention cannot be computed on these devices as configured.
    """
    try:
        backend = choose_backend(
            config.policy.attention, platform_of(mesh), decoder.dtype
        )
    except ValueError as error:
        raise ValueError(f"config.policy.{error}") from error
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
