"""Looks at the devices: do they compute what they should, and talk to each other?"""

import time
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from reskill_jax import distributed
from reskill_jax.build.sections import section
from reskill_jax.doctor.checks import Finding, Session, ok, part, slow, wrong
from reskill_jax.policy.ops.attention import attention, choose_backend
from reskill_jax.policy.sharding import AXES, mesh_of, platform_of

# FLOP/s of products in bfloat16, without sparsity, by a part of what JAX calls a
# device; the first that is found counts. From the vendors' data sheets.
PEAKS = {
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "B200": 2250e12,
    "A100": 312e12,
    "L40S": 362e12,
    "TPU v6": 918e12,
    "TPU v5 lite": 197e12,
    "TPU v5": 459e12,
    "TPU v4": 275e12,
}
_FAST = 0.5  # share of the peak that a large product should reach
_ALIKE = 0.8  # the slowest device beside the fastest
# Largest difference from the reference, as a share of its largest value.
_TOLERANCES = {"float32": 1e-4, "bfloat16": 0.03}
_TOKENS = 1024  # from here on a CPU's program skips blocks


def peak_flops(device: jax.Device) -> float | None:
    """Return what a device computes at most in a second; None if not known."""
    kind = device.device_kind
    return next((peak for name, peak in PEAKS.items() if name in kind), None)


def devices(session: Session) -> Finding:
    """Compute on every device what is known, and measure a large product."""
    here = jax.local_devices()
    kind, platform = here[0].device_kind, here[0].platform
    text = f"{len(here)} x {kind}"
    if jax.process_count() > 1:
        text += f", {len(jax.devices())} in {jax.process_count()} processes"
    numbers = np.arange(2**14).reshape(128, 128) % 7
    for device in here:
        x = jax.device_put(jnp.asarray(numbers, jnp.float32), device)
        if not np.array_equal(jax.jit(jnp.matmul)(x, x), numbers @ numbers):
            return wrong(
                f"{text}: {device} computes a product of integers wrongly",
                "leave it out (CUDA_VISIBLE_DEVICES), and have it replaced",
            )
    speeds = [_speed(device, session.config.policy.dtype) for device in here]
    text += f", {min(speeds) / 1e12:.3g} TFLOP/s each"
    if platform == "cpu" and session.config.policy.dtype == "bfloat16":
        return slow(
            f"{text}, without hardware for bfloat16",
            "JAX finds no GPU or TPU here: pip install '.[cuda]' or '.[tpu]'; for a "
            "CPU, --config.policy.dtype=float32",
        )
    peak = peak_flops(here[0])
    if peak and min(speeds) < _FAST * peak:
        return slow(
            f"{text}, of {peak / 1e12:.0f} by the data sheet",
            "look for other processes, power limits and heat with nvidia-smi -q",
        )
    if platform != "cpu" and min(speeds) < _ALIKE * max(speeds):
        return slow(
            f"{text}, up to {max(speeds) / 1e12:.3g}: the slowest holds all others up",
            f"look at {here[int(np.argmin(speeds))]}",
        )
    return ok(text)


def _speed(device: jax.Device, dtype: str) -> float:
    """Measure the FLOP/s of a large product, the best of some."""
    size = 512 if device.platform == "cpu" else 8192
    x = jax.device_put(jnp.ones((size, size), dtype), device)
    product = jax.jit(jnp.matmul)
    jax.block_until_ready(product(x, x))
    best = float("inf")
    for _ in range(5):
        started = time.perf_counter()
        jax.block_until_ready(product(x, x))
        best = min(best, time.perf_counter() - started)
    return 2.0 * size**3 / best


def attention_programs(session: Session) -> Finding:
    """Compare attention and its gradients with a plain program in float32."""
    policy = part(session.policy)
    config, decoder = session.config, policy.config
    with section(config, "policy"):
        backend = choose_backend(
            config.policy.attention, platform_of(policy.mesh), decoder.dtype
        )
    length = min(max(config.grpo.buckets), _TOKENS)
    shapes = [
        (1, length, heads, decoder.head_dim)
        for heads in (
            decoder.num_attention_heads,
            decoder.num_key_value_heads,
            decoder.num_key_value_heads,
            decoder.num_attention_heads,
        )
    ]
    generator = np.random.default_rng(0)
    inputs = [jnp.asarray(generator.normal(size=s), decoder.dtype) for s in shapes]
    visible_end = jnp.asarray(_branches(length))[None]
    program = partial(attention, visible_end=visible_end, backend=backend)
    found = _with_gradients(program, inputs)
    plain = [x.astype(jnp.float32) for x in inputs]
    wanted = _with_gradients(partial(_reference, visible_end=visible_end), plain)
    worst = {
        name: _difference(x, y)
        for name, x, y in zip(
            ("output", "queries", "keys", "values"), found, wanted, strict=True
        )
    }
    name, most = max(worst.items(), key=lambda pair: pair[1])
    tolerance = _TOLERANCES[decoder.dtype]
    text = f"{backend}, {length} tokens: differs by {most:.1g} at most ({name})"
    if not most <= tolerance:
        return wrong(
            f"{text}; {tolerance:g} is the limit for {decoder.dtype}",
            "choose another program with --config.policy.attention (xla runs "
            "everywhere), and report this one",
        )
    return ok(text)


def _branches(length: int) -> np.ndarray:
    """Return `visible_end` of a trunk of half the tokens with two branches."""
    half, last = length // 2, length * 3 // 4
    index = np.arange(length)
    return np.where(index < half, length, np.where(index < last, last, length)).astype(
        np.int32
    )


def _with_gradients(
    program: Callable[..., jax.Array], inputs: list[jax.Array]
) -> list[jax.Array]:
    """Return a program's output of three inputs, and gradients weighted by a fourth."""
    *arguments, weights = inputs

    @jax.jit
    def run(*arguments: jax.Array) -> tuple[jax.Array, ...]:
        out, back = jax.vjp(program, *arguments)
        return out, *back(weights.astype(out.dtype))

    return list(run(*arguments))


def _reference(
    query: jax.Array, key: jax.Array, value: jax.Array, visible_end: jax.Array
) -> jax.Array:
    """Attend as the definition says, in float32 with all pairs in memory."""
    groups = query.shape[2] // key.shape[2]
    key, value = (jnp.repeat(x, groups, axis=2) for x in (key, value))
    index = jnp.arange(query.shape[1])
    seen = (index[:, None] >= index) & (index[:, None] < visible_end[:, None, :])
    exact = partial(jnp.einsum, precision="highest")
    scores = exact("bsnh,btnh->bnst", query, key) * query.shape[-1] ** -0.5
    shares = jax.nn.softmax(jnp.where(seen[:, None], scores, -jnp.inf), axis=-1)
    return exact("bnst,btnh->bsnh", shares, value)


def _difference(found: jax.Array, wanted: jax.Array) -> float:
    right = np.asarray(wanted, np.float64)
    apart = np.abs(np.asarray(found, np.float64) - right).max()
    return float(apart / np.abs(right).max())


def collective(session: Session) -> Finding:
    """Add up over all devices of the run, and over all processes.

    After the weights were pushed: two copies of NCCL in a process may mix up their
    groups.
    """
    mesh = mesh_of(part(session.state).params)
    numbers = distributed.gather(jax.process_index())
    if numbers != [*range(distributed.count())]:
        return wrong(
            f"processes gathered {numbers}", "start all of them with the same command"
        )
    if mesh is None:
        return ok("one device: nothing to add up")
    assert isinstance(mesh, Mesh)  # of arrays that are here
    size = mesh.size
    rows = np.broadcast_to(np.arange(size, dtype=np.float32)[:, None], (size, 2**18))
    x = jax.make_array_from_callback(
        rows.shape, NamedSharding(mesh, P(AXES)), lambda index: rows[index]
    )
    add = jax.jit(lambda x: x.sum(0), out_shardings=NamedSharding(mesh, P()))
    jax.block_until_ready(add(x))
    started = time.perf_counter()
    total = jax.block_until_ready(add(x))
    seconds = time.perf_counter() - started
    wanted = size * (size - 1) / 2
    if not np.all(np.asarray(total.addressable_shards[0].data) == wanted):
        return wrong(
            f"a sum over {size} devices is wrong",
            "set NCCL_DEBUG=INFO and look for other copies of NCCL; with "
            "config.engine.vllm.transfer='nccl', try 'files'",
        )
    return ok(f"a sum of 1 MiB over {size} devices in {1e3 * seconds:.1f} ms")
