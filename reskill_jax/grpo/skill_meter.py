"""Scores responses with and without a skill: does the policy go by what it is shown?

Both branches hang on one trunk, in a forward pass of their own: gradients, and what the
update computes, are the same with and without the meter.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from reskill_jax.grpo.optimizer import LogprobFn
from reskill_jax.grpo.packing import PackedBatch, pack
from reskill_jax.policy.sharding import constrain, mesh_of, put_rows, row_shards
from reskill_jax.rollout.episode import Episode
from reskill_jax.rollout.meter import choose, measured, tokens_of

# Of effects; the last digits of sums differ between arrangements of devices.
_DIGITS = 4

# (params, the episodes of a step) -> metrics
SkillMeter = Callable[[Any, Sequence[Episode]], dict[str, float]]


def make_skill_meter(
    logprob_fn: LogprobFn, *, buckets: Sequence[int], share: float
) -> SkillMeter:
    """Build `meter(params, episodes) -> metrics`.

    It fills in `Ablation.effect`, how much likelier the response is with the skill
    (nats per token), at the turns that it scores, and drops all other ablations.

    Args:
        logprob_fn: (params, packed) -> float32 [R, T], log-probs of the targets.
        buckets: row lengths, see `pack`.
        share: most tokens that are scored, as a share of those of the episodes.
    """

    @jax.jit
    def forward(params: Any, packed: PackedBatch) -> jax.Array:
        scores = jnp.where(packed.mask > 0, logprob_fn(params, packed), 0.0)
        return constrain(scores)  # whole in every process

    def score(params: Any, chosen: Sequence[Episode]) -> dict[tuple[int, int], float]:
        """Return the mean log-prob of the tokens of each (episode, turn)."""
        mesh = mesh_of(params)
        sums: dict[tuple[int, int], float] = {}
        for packed in pack(
            chosen,
            buckets=buckets,
            tokens_per_microbatch=max(buckets),
            row_shards=row_shards(mesh),
        ):
            scores = np.asarray(forward(params, put_rows(mesh, packed)), np.float64)
            slots = packed.mask > 0
            for episode, turn, value in zip(
                packed.episode[slots], packed.turn[slots], scores[slots], strict=True
            ):
                place = int(episode), int(turn)
                sums[place] = sums.get(place, 0.0) + float(value)
        return {
            (e, t): total / len(chosen[e].turns[t].response)
            for (e, t), total in sums.items()
        }

    def meter(params: Any, episodes: Sequence[Episode]) -> dict[str, float]:
        started = time.perf_counter()
        turns = [turn for episode in episodes for turn in episode.turns]
        if not any(turn.ablation for turn in turns):
            return {}
        chosen = choose(episodes, share)
        kept = {
            id(turn.ablation): (e, t)
            for e, episode in enumerate(chosen)
            for t, turn in enumerate(episode.turns)
            if t % 2 == 0
        }
        means = score(params, chosen) if chosen else {}
        for turn in turns:
            place = kept.get(id(turn.ablation)) if turn.ablation else None
            if turn.ablation is None or place is None:
                turn.ablation = None
                continue
            e, t = place
            turn.ablation.effect = round(means[e, t] - means[e, t + 1], _DIGITS)
        effects = measured(episodes)
        metrics = {
            "meter/turns": float(sum(map(len, effects.values()))),
            "meter/tokens": sum(map(tokens_of, chosen))
            / max(sum(map(tokens_of, episodes)), 1),
            "time/meter": time.perf_counter() - started,
        }
        for skill, values in sorted(effects.items()):
            metrics[f"skills/{skill}/effect_logprob"] = float(np.mean(values))
        return metrics

    return meter
