"""The policy of a run, its devices and its tokenizer."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from ml_collections import ConfigDict

from reskill_jax.build.sections import section
from reskill_jax.checkpoint import CheckpointError
from reskill_jax.policy.decoder import Params, abstract_params
from reskill_jax.policy.decoder_config import DecoderConfig, load_config
from reskill_jax.policy.eos import find_eos_ids
from reskill_jax.policy.lora import Adapted, digest_of_weights, init_adapters, join
from reskill_jax.policy.ops.attention import check_row_lengths, choose_backend
from reskill_jax.policy.random_policy import PREFIX, random_policy
from reskill_jax.policy.sharding import (
    AXES,
    abstract,
    engine_mesh,
    make_mesh,
    platform_of,
)
from reskill_jax.policy.tokenizer import Tokenizer
from reskill_jax.policy.weights import load, on_mesh
from reskill_jax.rollout.jax.engine import check_rows
from reskill_jax.seeds import derive_seed
from reskill_jax.terminal import activity


@dataclass(frozen=True)
class Policy:
    """The decoder that a run starts from.

    Attributes:
        directory: the Hugging Face directory that it came from.
        config: its shape.
        params: the weights that are trained, float32: all, or adapters; or their
            description.
        tokenizer: its tokenizer.
        eos_ids: the tokens that end a response.
        mesh: the devices that they are on; None for one.
        frozen: what adapters are on, in the compute dtype; None without adapters.
    """

    directory: Path
    config: DecoderConfig
    params: Params
    tokenizer: Tokenizer
    eos_ids: tuple[int, ...]
    mesh: Mesh | None = None
    frozen: Adapted | None = None

    def join(self, trained: Any) -> Any:
        """Return the parameters that compute, from those that are trained."""
        return join(self.frozen, trained)


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
            template for those of a checkpoint. The base of adapters is read anyway.

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
    if config.policy.lora.rank:
        frozen = _load_base(config, directory, decoder, mesh)
        params = make_adapters(config, frozen.base, mesh, weights=weights)
        return Policy(directory, decoder, params, tokenizer, eos_ids, mesh, frozen)
    if weights:
        with activity(f"loading the weights of {directory}"):
            _, params = load(directory, on_mesh(mesh))
    else:
        params = abstract(mesh, abstract_params(decoder))
    return Policy(directory, decoder, params, tokenizer, eos_ids, mesh)


def _load_base(
    config: ConfigDict, directory: Path, decoder: DecoderConfig, mesh: Mesh | None
) -> Adapted:
    """Read the frozen weights, one parameter at a time, rounded as they compute."""
    place = on_mesh(mesh)

    def rounded(*parameter: Any) -> jax.Array:
        return jnp.asarray(place(*parameter), decoder.dtype)

    with activity(f"loading the weights of {directory}"):
        _, base = load(directory, rounded)
    return Adapted(base, None, lora_scale(config))


def lora_scale(config: ConfigDict) -> float:
    """Return alpha / r."""
    return float(config.policy.lora.alpha / config.policy.lora.rank)


def make_adapters(
    config: ConfigDict, base: Params, mesh: Mesh | None, *, weights: bool = True
) -> Params:
    """Make the adapters that a run starts from, or describe them.

    Args:
        config: of the run.
        base: the parameters that they are for, abstract or not.
        mesh: the devices that they are on; None for one.
        weights: whether to make them.
    """
    lora = config.policy.lora
    make: Callable[[jax.Array], Any] = partial(
        init_adapters,
        jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), base),
        tuple(lora.targets),
        lora.rank,
    )
    key = jax.random.key(derive_seed(config.seed, "lora"))
    described = abstract(mesh, jax.eval_shape(make, key))
    if not weights:
        return described
    places = None if mesh is None else jax.tree.map(lambda x: x.sharding, described)
    return jax.jit(make, out_shardings=places)(key)


def describe_base(directory: Path) -> dict[str, str]:
    """Say which weights never change, for the host document of a checkpoint."""
    with activity(f"reading the digest of the weights in {directory}"):
        return {"path": str(directory), "digest": digest_of_weights(directory)}


def check_base(host: Mapping[str, Any], base: Mapping[str, str] | None) -> None:
    """Refuse a checkpoint beside other weights than those that it was written beside.

    Args:
        host: of the checkpoint; empty: there is none.
        base: of `describe_base`; None where the checkpoint has all weights itself. One
            of a version that noted none is taken as it is.

    Raises:
        CheckpointError: the weights are others.
    """
    stored = host.get("base")
    if stored is None or base is None:
        return
    if stored.get("digest") != base["digest"]:
        raise CheckpointError(
            f"the checkpoint belongs to the weights of {stored.get('path')!r}, digest "
            f"{str(stored.get('digest'))[:12]}, but "
            f"{base['path']!r} has {base['digest'][:12]}: bring those weights back, or "
            "choose another --workdir"
        )


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
    with section(config, "policy"):
        attention = choose_backend(
            config.policy.attention, platform_of(mesh), decoder.dtype
        )
    with section(config, "grpo"):
        check_row_lengths(config.grpo.buckets, attention, platform_of(mesh))
    if config.engine.name == "jax":
        options = engine_options(config, platform_of(mesh))
        with section(config, "engine"):
            check_rows(
                engine_mesh(mesh, decoder),
                prefill_rows=options["prefill_rows"],
                decode_rows=options["decode_rows"],
            )


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
