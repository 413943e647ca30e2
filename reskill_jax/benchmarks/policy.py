"""How fast is the decoder on this machine, next to transformers on torch?

    pip install '.[parity]'; python -m reskill_jax.benchmarks.policy

times forward and backward of small Qwen3s on the same random tokens, in float32, all
in turn; the best of the repeats counts, which varies least on a noisy machine.
FLOPs are those of the matrix products (a causal mask halves attention's); the peak is
this machine's own, of one large product in JAX.
"""

import importlib.util
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from reskill_jax.benchmarks.reporting import Bar, format_table, report
from reskill_jax.benchmarks.timing import in_turn
from reskill_jax.command_line import start
from reskill_jax.policy.compute import Compute
from reskill_jax.policy.decoder import Params, init
from reskill_jax.policy.decoder_config import DecoderConfig, to_hf
from reskill_jax.policy.logprobs import token_logprobs
from reskill_jax.process import tune_memory

_ROWS = flags.DEFINE_integer("rows", 4, "Rows of a batch.")
_LENGTH = flags.DEFINE_integer("length", 768, "Tokens of a row.")
_REPEATS = flags.DEFINE_integer("repeats", 10, "Timings, of which the best counts.")

SHAPES = {  # vocabulary, hidden, feed-forward, layers, heads, key-value heads
    "1M (the laboratory's)": (1024, 160, 320, 4, 2, 2),
    "4M": (2048, 256, 704, 5, 4, 2),
    "30M": (8192, 512, 1536, 8, 8, 4),
}


def main() -> None:
    """Time every shape in both libraries."""
    tune_memory()  # as in a run
    peak = matmul_peak()
    shape = (_ROWS.value, _LENGTH.value)
    size = math.prod(shape)
    configs = [decoder(*sizes) for sizes in SHAPES.values()]
    steps: list[Callable[[], Any]] = []
    for config in configs:
        tokens = np.random.default_rng(0).integers(0, config.vocab_size, shape)
        params = init(config, jax.random.key(0))
        steps.append(jax_step(config, params, tokens))
        steps.append(torch_step(torch_model(config), tokens))
    # All sizes in turn: a disturbance of a minute meets some timings of each.
    seconds = in_turn(steps, _REPEATS.value)
    rows: list[list[str | float]] = []
    figures: dict[str, float] = {"matmul peak, GFLOP/s": peak / 1e9}
    bars: dict[str, Bar] = {}
    pairs = zip(SHAPES, configs, seconds[::2], seconds[1::2], strict=True)
    for name, config, ours, theirs in pairs:
        share = flops(config, *shape) / ours / peak
        rows.append([name, size / ours, size / theirs, theirs / ours, share])
        figures |= {
            f"{name}/tokens per second": size / ours,
            f"{name}/tokens per second, torch": size / theirs,
            f"{name}/share of peak": share,
        }
        bars[f"{name}: speed over torch"] = Bar(theirs / ours, 1.0)
    header = ["parameters", "tokens/s", "torch", "ratio", "share of peak"]
    print(format_table(header, rows))
    report("policy", figures, bars)


def decoder(
    vocab: int, hidden: int, feed_forward: int, layers: int, heads: int, kv_heads: int
) -> DecoderConfig:
    """Return a Qwen3 of this shape, with heads of 64 and tied embeddings."""
    return DecoderConfig(
        vocab_size=vocab,
        hidden_size=hidden,
        intermediate_size=feed_forward,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=64,
        rope_theta=1e6,
        max_position_embeddings=4096,
    )


def jax_step(
    config: DecoderConfig, params: Params, tokens: np.ndarray
) -> Callable[[], Any]:
    """Return what computes loss and gradients of next tokens once."""
    rows, length = tokens.shape
    positions = jnp.broadcast_to(jnp.arange(length), (rows, length))
    visible_end = jnp.full((rows, length), length)  # a row is one trunk
    inputs = jnp.asarray(tokens, jnp.int32)

    @jax.jit
    def step(params: Any) -> Any:
        def loss(params: Any) -> jax.Array:
            logprobs, _ = token_logprobs(
                config,
                params,
                inputs,
                positions,
                visible_end,
                jnp.roll(inputs, -1, axis=1),
                compute=Compute(remat="dots", logprob_chunk=length),
            )
            return -jnp.mean(logprobs[:, :-1])

        return jax.value_and_grad(loss)(params)

    return lambda: jax.block_until_ready(step(params))


def torch_model(config: DecoderConfig) -> Any:
    """Make the same model, with other random weights, in transformers.

    Raises:
        ModuleNotFoundError: torch is not installed.
    """
    if importlib.util.find_spec("torch") is None:
        raise ModuleNotFoundError(
            "benchmarks.policy compares with torch: pip install '.[parity]'"
        )
    import transformers  # noqa: PLC0415

    theirs = transformers.Qwen3Config(**to_hf(config))
    return transformers.AutoModelForCausalLM.from_config(
        theirs, attn_implementation="sdpa"
    ).float()


def torch_step(model: Any, tokens: np.ndarray) -> Callable[[], Any]:
    """Return the same computation as `jax_step` with a model of transformers."""
    import torch  # noqa: PLC0415

    inputs = torch.as_tensor(tokens)

    def step() -> Any:
        model.zero_grad()
        loss = model(input_ids=inputs, labels=inputs, use_cache=False).loss
        loss.backward()
        return loss

    return step


def flops(config: DecoderConfig, rows: int, length: int) -> float:
    """Count the FLOPs of forward and backward: three times the forward pass's."""
    heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
    projections = config.hidden_size * config.head_dim * 2 * (heads + kv_heads)
    feed_forward = 3 * config.hidden_size * config.intermediate_size
    attention = heads * config.head_dim * length  # scores and values, half of each
    layer = projections + feed_forward + attention
    vocabulary = config.hidden_size * config.vocab_size
    per_token = 2 * (config.num_hidden_layers * layer + vocabulary)
    return 3.0 * rows * length * per_token


def matmul_peak(size: int = 2048) -> float:
    """Measure the FLOPs per second of one large product in float32."""
    x = jax.random.normal(jax.random.key(0), (size, size))
    product = jax.jit(jnp.matmul)
    (seconds,) = in_turn([lambda: jax.block_until_ready(product(x, x))], 10)
    return 2.0 * size**3 / seconds


if __name__ == "__main__":
    start(main)
