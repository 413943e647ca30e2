"""Supervised training of a small policy on demonstrations."""

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np
import optax
import tqdm
from optax.contrib import MuonDimensionNumbers, muon

from reskill_jax.grpo.optimizer import TrainState
from reskill_jax.grpo.packing import PackedBatch, pack
from reskill_jax.grpo.scoring import make_logprobs
from reskill_jax.grpo.supervised import SupervisedUpdate
from reskill_jax.laboratory.demonstrator import Demonstration
from reskill_jax.policy.decoder import Params
from reskill_jax.policy.decoder_config import DecoderConfig
from reskill_jax.rollout.episode import Episode, Turn
from reskill_jax.rollout.prompts import Conversation, PromptBuilder


def as_episode(prompts: PromptBuilder, demonstration: Demonstration) -> Episode:
    """Render a demonstration as the collector would have recorded it.

    The response of a turn is what it teaches; what was done there is read as the past
    of later turns. A turn that teaches nothing is only read.
    """
    task, moments = demonstration.task, demonstration.turns
    episode = Episode(task, 0, 0, 0, "", goal=demonstration.goal)
    talk = Conversation(
        prompts, demonstration.goal, moments[0].observation, moments[0].admissible
    )
    after = [*(moment.observation for moment in moments[1:])]
    for moment, observation in zip(
        moments, [*after, demonstration.final_observation], strict=True
    ):
        prompt = talk.prompt(moment.admissible, moment.skills)
        if moment.taught is not None:
            text = f"<action>{moment.taught}</action>"
            response = [*prompts.tokenizer.encode(text), prompts.tokenizer.eos_id]
            turn = Turn(
                window=prompt.window,
                trunk_length=prompt.trunk_length,
                branch=np.asarray(prompt.branch, np.int32),
                response=np.asarray(response, np.int32),
                logprobs=np.zeros(len(response), np.float32),
                version=0,
                observation=moment.observation,
                text=text,
                action=moment.taught,
                valid=True,
                active_skills=tuple(skill.name for skill in moment.skills),
            )
            episode.turns.append(turn)
        talk.advance(moment.action, observation)
    episode.trunks = [np.asarray(trunk, np.int32) for trunk in talk.trunks]
    episode.success = demonstration.success
    return episode


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


def fit(
    update: SupervisedUpdate,
    state: TrainState,
    steps: Iterable[int],
    episodes: Callable[[int], Sequence[Episode]],
) -> TrainState:
    """Take optimiser steps; `state` is donated.

    Args:
        update: takes one.
        state: to start from.
        steps: their numbers.
        episodes: step number -> what it learns from. Called in a thread, one step
            ahead, since rendering and packing take about as long as an update.
    """
    numbers = list(steps)

    def prepare(step: int) -> list[PackedBatch]:
        return _pack(episodes(step))

    with ThreadPoolExecutor(1) as thread:
        ahead = (thread.submit(prepare, step) for step in numbers)
        packed = next(ahead)
        progress = tqdm.tqdm(numbers, desc="warm start", mininterval=10)
        for _ in progress:
            batches, packed = packed.result(), next(ahead, packed)
            state, metrics = update(state, batches)
            progress.set_postfix(loss=metrics["supervised/loss"])
    return state


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


def held_out_loss(
    decoder: DecoderConfig, params: Params, episodes: Sequence[Episode]
) -> float:
    """Return the mean negative log-likelihood per demonstrated token, in nats."""
    logprobs = jax.jit(make_logprobs(decoder))
    total = count = 0.0
    for packed in _pack(episodes):
        total -= float(np.sum(logprobs(params, packed) * packed.mask))
        count += float(np.sum(packed.mask))
    return total / count


def _pack(episodes: Sequence[Episode]) -> list[PackedBatch]:
    return pack(episodes, buckets=(512, 768, 1024), tokens_per_microbatch=3072)
