"""Loads the policy and updates it once, as a run does."""

import time

import jax
import numpy as np

from reskill_jax import build
from reskill_jax.build import Policy
from reskill_jax.doctor.checks import Finding, Session, ok, part, slow, wrong
from reskill_jax.doctor.devices import peak_flops
from reskill_jax.environments.task import Task
from reskill_jax.grpo.optimizer import init_state
from reskill_jax.memory_plan import model_flops
from reskill_jax.policy.sharding import row_shards
from reskill_jax.rollout.episode import Episode, Turn

_UTILISATION = 0.25  # of the peak; below it something is wrong with the set-up
_FULL = 0.95  # of a device's memory
_BRANCH, _RESPONSE = 8, 32  # tokens


def policy(session: Session) -> Finding:
    """Load the policy onto the run's devices."""
    config = session.config
    started = time.perf_counter()
    loaded = session.policy = build.load_policy(config)
    jax.block_until_ready(loaded.params)
    seconds = time.perf_counter() - started
    session.reference = build.make_reference(config, loaded)
    tx, _ = build.make_grpo(config, loaded.config, loaded.mesh)
    session.state = init_state(loaded.params, tx, loaded.mesh)
    trained = sum(leaf.size for leaf in jax.tree.leaves(loaded.params))
    computing = jax.tree.leaves(loaded.join(loaded.params))
    count = sum(leaf.size for leaf in computing)
    adapters = f", {trained / 1e6:,.1f}M of them trained" if loaded.frozen else ""
    places = 1 if loaded.mesh is None else loaded.mesh.size
    return ok(
        f"{count / 1e6:,.1f}M parameters{adapters}, on {places} device(s), "
        f"{loaded.config.dtype}, loaded in {seconds:.1f} s"
    )


def update(session: Session) -> Finding:
    """Update twice on full rows of random tokens; the first time compiles."""
    config, loaded = session.config, part(session.policy)
    if session.engine is not None:
        session.engine.sleep()  # its memory is the update's, as in a run
    # Random tokens are scored before, as the sampling policy's: ratios are 1.
    exact = config.copy_and_resolve_references()
    exact.grpo.old_logprobs = "recompute"
    _, learn = build.make_grpo(exact, loaded.config, loaded.mesh)
    longest = max(config.grpo.buckets)
    rows = config.grpo.tokens_per_microbatch // longest * row_shards(loaded.mesh)
    batch = _full_rows(loaded, max(rows, 2), longest)
    state, seconds = part(session.state), []
    metrics: dict[str, float] = {}
    for _ in range(2):
        started = time.perf_counter()
        state, metrics = learn(
            state, session.reference, batch, seed=config.seed, frozen=loaded.frozen
        )
        session.state = jax.block_until_ready(state)
        seconds.append(time.perf_counter() - started)
    norm = metrics["update/grad_norm"]
    if not norm > 0:
        return wrong(
            f"the norm of the gradient is {norm}",
            "report it, with the attention that config.policy.attention chooses",
        )
    microbatches = metrics["batch/microbatches"]
    flops = microbatches * model_flops(loaded.config, rows, longest)
    flops *= (4 + bool(config.grpo.kl_coef)) / 3  # forward passes of policy, reference
    places = 1 if loaded.mesh is None else loaded.mesh.size
    rate = flops / seconds[1] / places
    text = (
        f"{int(microbatches)} x {rows} rows of {longest} tokens in {seconds[1]:.2f} s "
        f"({metrics['batch/tokens'] / seconds[1]:,.0f} tokens/s), first "
        f"{seconds[0]:.1f} s; {rate / 1e12:.3g} TFLOP/s per device"
    )
    if (peak := peak_flops(jax.local_devices()[0])) is not None:
        text += f", MFU {rate / peak:.0%}"
        if rate < _UTILISATION * peak:
            return slow(
                text,
                "see what the devices wait for: config.policy.attention, "
                "config.policy.remat, a mesh with less config.mesh.tensor, other "
                "processes on the devices",
            )
    return _with_memory(text)


def _with_memory(text: str) -> Finding:
    """Add how full the devices were, where they tell."""
    stats = [device.memory_stats() or {} for device in jax.local_devices()]
    limits = [s["bytes_limit"] for s in stats if s.get("bytes_limit")]
    peaks = [s["peak_bytes_in_use"] for s in stats if s.get("peak_bytes_in_use")]
    if not limits or not peaks:
        return ok(text)
    text += f", peak {max(peaks) / 2**30:.1f} of {min(limits) / 2**30:.1f} GiB"
    if max(peaks) > _FULL * min(limits):
        return slow(
            text,
            "a little more would not fit: --mode=compile tells what takes memory; "
            "lower config.grpo.tokens_per_microbatch",
        )
    return ok(text)


def _full_rows(loaded: Policy, count: int, length: int) -> list[Episode]:
    """Make a group of episodes that fill a row each, half of them successes."""
    generator = np.random.default_rng(0)

    def tokens(size: int) -> np.ndarray:
        return generator.integers(0, loaded.config.vocab_size, size).astype(np.int32)

    # The last token of a response has no slot; one row is not quite full.
    trunk = max(length - _BRANCH - _RESPONSE, 1)
    unknown = np.zeros(_RESPONSE, np.float32)
    return [
        made_episode(i, tokens(trunk), tokens(_RESPONSE), unknown) for i in range(count)
    ]


def made_episode(
    index: int,
    prompt: np.ndarray,
    response: np.ndarray,
    logprobs: np.ndarray,
) -> Episode:
    """Make an episode of one turn; those with an even index succeed.

    Args:
        index: within its group.
        prompt: token ids, all but the last `_BRANCH` in the trunk.
        response: token ids.
        logprobs: of the response.
    """
    success = index % 2 == 0
    cut = len(prompt) - min(_BRANCH, len(prompt) - 1)
    turn = Turn(
        window=0,
        trunk_length=cut,
        branch=prompt[cut:],
        response=response,
        logprobs=logprobs,
        version=0,
        observation="",
        text="",
        action="",
        valid=True,
        reward=float(success),
    )
    return Episode(
        Task("doctor", "doctor", "doctor", ""),
        group=0,
        index=index,
        arm=0,
        context="",
        trunks=[prompt[:cut]],
        turns=[turn],
        reward=float(success),
        success=success,
    )
