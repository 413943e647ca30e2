"""Low-rank adapters (LoRA, arXiv 2106.09685) of a frozen base.

A chosen matrix W computes y = W x + (alpha / r) B (A x); only A and B are trained. A
starts random and B at zero, so that training starts from the base itself, and the base
without its adapters is the reference of a KL term, without a second copy.

    frozen = Adapted(base, None, scale)              # computes what the base does
    adapters = init_adapters(base, targets, rank, key)
    params = join(frozen, adapters)                  # wherever parameters are expected
    merge(params)                                    # the same function, plain arrays

Letters: r rank; L, D, F, N, H as in `decoder`.
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

# The matrices that can have adapters: Hugging Face's name -> where it is in a layer.
TARGETS = {
    "q_proj": ("attention", "query"),
    "k_proj": ("attention", "key"),
    "v_proj": ("attention", "value"),
    "o_proj": ("attention", "out"),
    "gate_proj": ("mlp", "gate"),
    "up_proj": ("mlp", "up"),
    "down_proj": ("mlp", "down"),
}
A, B = "lora_a", "lora_b"


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Adapted:
    """Parameters of a decoder: a frozen base with adapters.

    Attributes:
        base: the parameters of a decoder, in any dtype.
        adapters: {"layers": {"attention": {"query": {"lora_a": [L, D, r], "lora_b":
            [L, r, N, H]}, ...}, "mlp": ...}}, float32; None: the base alone.
        scale: alpha / r.
    """

    base: Any
    adapters: Any
    scale: float = field(metadata={"static": True})


def join(frozen: Adapted | None, trained: Any) -> Any:
    """Return the parameters that compute: `trained` itself, or adapters on their base.

    Args:
        frozen: the base; None if all parameters are trained.
        trained: what an optimiser changes.
    """
    return trained if frozen is None else replace(frozen, adapters=trained)


def base_of(params: Any) -> Any:
    """Return the parameters of a decoder without their adapters."""
    return params.base if isinstance(params, Adapted) else params


def layer_adapters(params: Any, dtype: Any) -> Any:
    """Return the adapters of all layers, scaled, in the compute dtype; None if none."""
    if not isinstance(params, Adapted) or params.adapters is None:
        return None

    def cast(path: Any, x: jax.Array) -> jax.Array:
        return (x * params.scale if path[-1].key == B else x).astype(dtype)

    return jax.tree_util.tree_map_with_path(cast, params.adapters["layers"])


def within(adapters: Any, name: str) -> Any:
    """Return the adapters of a part of a layer; None if it has none."""
    return None if adapters is None else adapters.get(name)


def adapted(linear: Any, adapter: Any, x: jax.Array) -> jax.Array:
    """Apply a matrix, and its adapter if there is one, to tokens [M, ...].

    Two thin products: a merged matrix would round the adapter away in bfloat16, and its
    gradient would be as large as the matrix.
    """
    y: jax.Array = linear(x)
    if adapter is None:
        return y
    a, b = adapter[A], adapter[B]
    return y + jnp.tensordot(jnp.tensordot(x, a, a.ndim - 1), b, 1)


def init_adapters(base: Any, targets: Sequence[str], rank: int, key: jax.Array) -> Any:
    """Return adapters that change nothing yet: see `Adapted.adapters`.

    A is uniform within 1 / sqrt(inputs), as PEFT starts it; B is zero.

    Args:
        base: parameters of a decoder, abstract or not.
        targets: keys of `TARGETS`.
        rank: r.
        key: of the random numbers.
    """
    layers: dict[str, Any] = {}
    for number, (target, (part, name)) in enumerate(TARGETS.items()):
        if target not in targets:
            continue
        count, *rest = base["layers"][part][name]["kernel"].shape
        inputs = 2 if name == "out" else 1  # [N, H, D] against [D, N, H] and [D, F]
        bound = 1 / math.sqrt(math.prod(rest[:inputs]))
        shape = (count, *rest[:inputs], rank)
        a = jax.random.uniform(
            jax.random.fold_in(key, number), shape, minval=-bound, maxval=bound
        )
        b = jnp.zeros((count, rank, *rest[inputs:]))
        layers.setdefault(part, {})[name] = {A: a, B: b}
    return {"layers": layers}


def merge(params: Any) -> Any:
    """Return plain parameters that compute the same; `params` itself if it is plain.

    Sums are float32 and rounded to the base's dtype: in bfloat16, changes below 1/256
    of a weight are lost, so what is sampled from differs a little from what is trained.
    """
    if not isinstance(params, Adapted):
        return params
    return jax.tree_util.tree_map_with_path(partial(merge_leaf, params), params.base)


def merge_leaf(params: Any, path: Any, leaf: Any) -> Any:
    """Return one parameter of `merge`; those without an adapter are not copied.

    Args:
        params: that it is of.
        path: its keys, as `jax.tree_util` gives them.
        leaf: the parameter of the base.
    """
    adapter = params.adapters if isinstance(params, Adapted) else None
    for key in path[:-1]:
        adapter = within(adapter, key.key)
    if adapter is None or path[-1].key != "kernel":
        return leaf
    if isinstance(leaf, np.ndarray):
        change = _change(np.float32(params.scale), adapter[A], adapter[B])
        return np.asarray(leaf + np.asarray(change), leaf.dtype)
    return _merge(leaf, np.float32(params.scale), adapter[A], adapter[B])


@jax.jit
def _change(scale: jax.Array, a: jax.Array, b: jax.Array) -> jax.Array:
    """(alpha / r) A B of all layers, float32, in the shape of the kernel."""
    return scale * jax.vmap(partial(jnp.tensordot, axes=1, precision="highest"))(a, b)


@jax.jit
def _merge(leaf: jax.Array, scale: jax.Array, a: jax.Array, b: jax.Array) -> jax.Array:
    whole = leaf.astype(jnp.float32) + _change(scale, a, b)
    return whole.astype(leaf.dtype)


def digest_of_weights(directory: Path) -> str:
    """Return the SHA-256 of a Hugging Face directory's weights, by name of file."""
    digest = hashlib.sha256()
    for path in sorted(directory.glob("*.safetensors")):
        with path.open("rb") as file:
            part = hashlib.file_digest(file, "sha256").hexdigest()
        digest.update(f"{path.name} {part}\n".encode())
    return digest.hexdigest()
