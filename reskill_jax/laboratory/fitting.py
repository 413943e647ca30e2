"""Supervised training of a small policy on demonstrations."""

from collections.abc import Sequence

import jax
import numpy as np
import optax
from optax.contrib import MuonDimensionNumbers, muon

from reskill_jax.grpo.packing import PackedBatch, pack
from reskill_jax.policy.decoder import Params
from reskill_jax.rollout.episode import Episode, Turn


def as_text(episode: Episode) -> Episode:
    """Turn an episode into one long response: its first trunk, all to be predicted."""
    trunk = episode.trunks[0]
    turn = Turn(
        window=0,
        trunk_length=0,
        branch=trunk[:1],
        response=trunk[1:],
        logprobs=np.zeros(len(trunk) - 1, np.float32),
        version=0,
        observation="",
        text="",
        action="",
        valid=True,
    )
    return Episode(episode.task, 0, 0, 0, "", trunks=[trunk], turns=[turn])


def pack_episodes(episodes: Sequence[Episode]) -> list[PackedBatch]:
    """Pack rendered demonstrations for an update."""
    return pack(episodes, buckets=(512, 768, 1024), tokens_per_microbatch=3072)


def make_optimizer(
    learning_rate: optax.ScalarOrSchedule,
) -> optax.GradientTransformation:
    """Muon for the layers' matrices, AdamW for the rest.

    A small decoder learns to copy names in half of the steps that AdamW needs: text
    at 0.47 nats per token after 90 steps of one recipe instead of 0.70.
    """
    return optax.chain(
        optax.clip_by_global_norm(1.0),
        muon(
            learning_rate,
            consistent_rms=0.2,  # updates of AdamW's size: one learning rate for all
            adam_b2=0.95,  # short memory of squared gradients, since steps are few
            weight_decay=0.01,
            adam_weight_decay=0.01,
            muon_weight_dimension_numbers=_matrices,
        ),
    )


def _matrices(params: Params) -> Params:
    """Return which axes of a kernel, stacked over layers, are its rows and columns.

    None, for embeddings, norms and biases, leaves a parameter to AdamW.
    """

    def axes(path: tuple[jax.tree_util.DictKey, ...], value: jax.Array) -> object:
        *_, layer, name = (key.key for key in path)
        if name != "kernel" or layer == "lm_head":
            return None
        if value.ndim == 3:  # [L, in, out]
            return MuonDimensionNumbers((1,), (2,))
        if layer == "out":  # [L, N, H, D]
            return MuonDimensionNumbers((1, 2), (3,))
        return MuonDimensionNumbers((1,), (2, 3))  # [L, D, N, H]

    return jax.tree_util.tree_map_with_path(axes, params)
