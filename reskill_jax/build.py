"""Builds the parts of a run from its configuration.

This is the only place, with `main`, that reads the configuration; everything built here
takes explicit arguments.
"""

import pickle
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from reskill_jax.environments.panels import (
    Panels,
    TaskPanel,
    check_disjoint,
    check_pins,
)
from reskill_jax.environments.pool import EnvironmentPool
from reskill_jax.environments.protocol import EnvironmentSpec
from reskill_jax.environments.registry import ENVIRONMENTS, environment_module
from reskill_jax.environments.remote import RemotePlayers
from reskill_jax.grpo.optimizer import (
    LogprobFn,
    make_optimizer,
    schedule,
)
from reskill_jax.grpo.scoring import make_logprobs
from reskill_jax.grpo.update import Update, make_update
from reskill_jax.modules import naming
from reskill_jax.policy.compute import Compute
from reskill_jax.policy.decoder import Params, abstract_params
from reskill_jax.policy.decoder_config import DecoderConfig, load_config
from reskill_jax.policy.eos import find_eos_ids
from reskill_jax.policy.ops.attention import check_row_lengths, choose_backend
from reskill_jax.policy.random_policy import PREFIX, random_policy
from reskill_jax.policy.sharding import (
    AXES,
    abstract,
    engine_mesh,
    make_mesh,
    move,
    platform_of,
    row_shards,
)
from reskill_jax.policy.tokenizer import Tokenizer
from reskill_jax.policy.weights import load, on_mesh
from reskill_jax.rollout.collector import Collector, Players
from reskill_jax.rollout.engine import Engine, Sampling
from reskill_jax.rollout.jax.engine import JaxEngine, check_rows
from reskill_jax.rollout.prompts import PromptBuilder
from reskill_jax.terminal import activity
from reskill_jax.termination import TerminatedError


def context_resources(config: ConfigDict) -> dict[str, Any]:
    """Return what contexts need and JSON cannot hold, by name."""
    return {}


_SHARED_ENV_KEYS = (
    "name",
    "workers",
    "timeout_s",
    "max_attempts",
    "max_failed_groups",
)


def load_environment(config: ConfigDict) -> EnvironmentSpec:
    """Find the environment and give it its own keys of the section `env`.

    Raises:
        ValueError: there is no such environment, or it refuses a key.
        ModuleError: it is somebody's own, and fails otherwise or returns what it must
            not.
    """
    module = environment_module(config.env.name)
    own = {k: v for k, v in config.env.items() if k not in _SHARED_ENV_KEYS}
    with _naming_environment(config, "load"):
        settings = module.Settings(**own)
        spec = module.load(settings, workers=config.env.workers)
        if not isinstance(spec, EnvironmentSpec):
            raise TypeError(f"it returned {spec!r:.80}: needs an EnvironmentSpec")
        if not spec.remote:
            _check_picklable(spec.make)
    return spec


def _naming_environment(
    config: ConfigDict, method: str
) -> AbstractContextManager[None]:
    """Name an environment of somebody's own in what it raises by mistake."""
    if config.env.name in ENVIRONMENTS:
        return nullcontext()
    what = f"config.env.name={config.env.name!r}: {method}"
    return naming(what, ValueError, OSError, ImportError, TerminatedError)


def _check_picklable(make: Any) -> None:
    try:
        pickle.dumps(make)
    except Exception as error:
        raise TypeError(
            f"make={make!r} cannot be sent to worker processes ({error}): needs a "
            "class or function at the top of a module, or functools.partial of one"
        ) from error


def load_panels(config: ConfigDict, environment: EnvironmentSpec) -> Panels:
    """Load the tasks of the run.

    A held-out split whose data are not here has no tasks, as its environment has said;
    it is left out.

    Raises:
        ValueError: there are no tasks to train on, a split cannot be evaluated on, a
            held-out panel is not the pinned one, or splits share a task.
        ModuleError: see `load_environment`.
    """

    def load(split: str, limit: int | None) -> TaskPanel:
        with _naming_environment(config, f"panel({split!r}, {limit})"):
            panel = environment.panel(split, limit)
            if not isinstance(panel, TaskPanel):
                raise TypeError(f"it returned {panel!r:.80}: needs a TaskPanel")
        return panel

    def load_held_out(split: str) -> TaskPanel:
        try:
            return load(split, config.eval.max_tasks)
        except ValueError as error:
            name = str(error).partition("=")[0]
            if name in config.env:
                raise
            key = "max_tasks" if name == "limit" else "splits"
            raise ValueError(f"config.eval.{key}: {error}") from error

    with activity("reading the tasks"), _section(config, "env"):
        train = load("train", None)
        held_out = {split: load_held_out(split) for split in config.eval.splits}
    if not train.tasks:
        raise ValueError(f"config.env.name={config.env.name!r}: its train has no tasks")
    held_out = {split: panel for split, panel in held_out.items() if panel.tasks}
    check_disjoint({"train": train} | held_out)
    try:
        check_pins(held_out, config.eval.panel)
    except ValueError as error:
        raise ValueError(f"config.eval.panel: {error}") from error
    return Panels(train, held_out)


class Tasks(NamedTuple):
    """What a run plays: its environment, and the tasks in it."""

    environment: EnvironmentSpec
    panels: Panels


def load_tasks(config: ConfigDict) -> Tasks:
    """Load the environment and the tasks of the run; see the functions for each."""
    environment = load_environment(config)
    return Tasks(environment, load_panels(config, environment))


@dataclass(frozen=True)
class Policy:
    """The decoder that a run starts from.

    Attributes:
        directory: the Hugging Face directory that it came from.
        config: its shape.
        params: its weights, float32, or their description.
        tokenizer: its tokenizer.
        eos_ids: the tokens that end a response.
        mesh: the devices that they are on; None for one.
    """

    directory: Path
    config: DecoderConfig
    params: Params
    tokenizer: Tokenizer
    eos_ids: tuple[int, ...]
    mesh: Mesh | None = None


def policy_directory(config: ConfigDict) -> Path:
    """Return the Hugging Face directory that a run starts from.

    A random policy or a warm start that is missing is made first.
    """
    path = config.policy.path
    if path.startswith(PREFIX):
        return random_policy(path.removeprefix(PREFIX), config.seed)
    if path:
        return Path(path)
    from reskill_jax.laboratory.recipe import RECIPES  # noqa: PLC0415
    from reskill_jax.laboratory.warm_start import find_or_train  # noqa: PLC0415

    return find_or_train(
        RECIPES[config.warm_start.recipe],
        workers=config.env.workers,
        retrain=config.warm_start.retrain,
    )


def load_policy(config: ConfigDict, *, weights: bool = True) -> Policy:
    """Load the policy to start from onto the run's devices.

    Args:
        config: of the run.
        weights: whether to read them; otherwise `params` only describes them, as a
            template for those of a checkpoint.

    Raises:
        ValueError: the directory's parts do not fit each other, the devices, or the
            length of prompts and responses.
    """
    try:
        mesh = make_mesh([config.mesh[axis] for axis in AXES])
    except ValueError as error:
        raise ValueError(
            f"config.{error}. Flags --config.mesh.* may change at every start, also of "
            "a run that was begun or is evaluated or exported elsewhere"
        ) from error
    directory = policy_directory(config)
    decoder = replace(load_config(directory), dtype=config.policy.dtype)
    check_length(config, decoder, str(directory))
    tokenizer = Tokenizer.load(directory)
    if tokenizer.vocab_size > decoder.vocab_size:
        raise ValueError(
            f"{directory}: the tokenizer has ids up to {tokenizer.vocab_size - 1}, the "
            f"model embeds only vocab_size={decoder.vocab_size}: they are not of the "
            "same model"
        )
    eos_ids = find_eos_ids(directory, tokenizer, decoder.vocab_size)
    _check_devices(config, decoder, mesh)
    if weights:
        with activity(f"loading the weights of {directory}"):
            _, params = load(directory, on_mesh(mesh))
    else:
        params = abstract(mesh, abstract_params(decoder))
    return Policy(directory, decoder, params, tokenizer, eos_ids, mesh)


def check_length(config: ConfigDict, decoder: DecoderConfig, model: str) -> None:
    """Refuse prompts and responses that are longer than what a model was trained for.

    Raises:
        ValueError: names the keys, the lengths and the model.
    """
    longest = config.prompt.max_tokens + config.rollout.max_tokens
    if longest > decoder.max_position_embeddings:
        raise ValueError(
            f"config.prompt.max_tokens + config.rollout.max_tokens = {longest}, but "
            f"{model} was trained for max_position_embeddings="
            f"{decoder.max_position_embeddings}: lower them, or scale its positions "
            "(in its config.json: rope_scaling, and max_position_embeddings with it)"
        )


def _check_devices(
    config: ConfigDict, decoder: DecoderConfig, mesh: Mesh | None
) -> None:
    """Refuse what the devices cannot compute, before weights are read.

    Raises:
        ValueError: names the key.
    """
    with _section(config, "policy"):
        attention = choose_backend(
            config.policy.attention, platform_of(mesh), decoder.dtype
        )
    with _section(config, "grpo"):
        check_row_lengths(config.grpo.buckets, attention)
    if config.engine.name == "jax":
        options = engine_options(config, platform_of(mesh))
        with _section(config, "engine"):
            check_rows(
                engine_mesh(mesh, decoder),
                prefill_rows=options["prefill_rows"],
                decode_rows=options["decode_rows"],
            )


def make_reference(config: ConfigDict, policy: Policy) -> Params | None:
    """Copy the starting weights for the KL term, in the compute dtype; None without.

    Only forward passes need them, which would round float32 weights anyway. Where the
    policy only describes its weights, they are read again, one parameter at a time in
    float32.
    """
    if not config.grpo.kl_coef:
        return None

    def copy(x: jax.Array) -> jax.Array:
        x = jnp.array(x, policy.config.dtype, copy=True)
        return move(x, "pinned_host") if config.policy.reference == "host" else x

    leaves = jax.tree.leaves(policy.params)
    if all(isinstance(leaf, jax.Array) for leaf in leaves):
        return jax.tree.map(copy, policy.params)
    place = on_mesh(policy.mesh)
    _, params = load(policy.directory, lambda *parameter: copy(place(*parameter)))
    return params


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
    with _section(config, "prompt"):
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
    params: Params,
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
        with _section(config, "engine.vllm"), starting:
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


# Sequences per decode call where the configuration leaves them to the platform. A call
# costs as much as all its rows: on CPUs one sequence of a 135M model is sampled at 2.8
# tokens/s with 64 rows and at 30 with 4, while accelerators hardly notice 64.
_DECODE_ROWS = {"cpu": 4}
_DECODE_ROWS_ELSEWHERE = 64
_ENGINE_SIZES = (
    "max_sequences",
    "block_size",
    "prefill_rows",
    "decode_rows",
    "decode_steps",
)


def engine_options(
    config: ConfigDict, platform: str, row_shards: int = 1
) -> dict[str, int]:
    """Return the sizes of the engine's programs and of its cache.

    They follow from configuration and devices, never from load: products of different
    numbers of rows round differently, and results must not depend on the batch.

    Args:
        config: of the run.
        platform: of the devices.
        row_shards: parts that the engine's mesh splits rows into.
    """
    sizes = {key: config.engine[key] for key in _ENGINE_SIZES}
    by_platform = _DECODE_ROWS.get(platform, _DECODE_ROWS_ELSEWHERE)
    by_platform += -by_platform % row_shards
    return sizes | {
        "decode_rows": sizes["decode_rows"] or by_platform,
        "context": _context(config),
    }


def _context(config: ConfigDict) -> int:
    """Return the longest prompt and response, in whole blocks of the engine."""
    chunk = config.engine.block_size
    longest = config.prompt.max_tokens + config.rollout.max_tokens
    return -(-longest // chunk) * chunk


def make_players(
    config: ConfigDict, environment: EnvironmentSpec, resources: ExitStack
) -> Players:
    """Start what plays: worker processes, or coroutines here; `resources` ends them."""
    with _section(config, "env"):
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
        reward_scale=grpo.reward_scale,
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
    with _section(config, "policy"):
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
