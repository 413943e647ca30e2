"""Supervised training of a small policy on demonstrations."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import jax
import numpy as np
import optax
import tqdm

from reskill_jax.grpo.batch import PackedBatch, pack
from reskill_jax.grpo.optimization import init_state, make_optimizer
from reskill_jax.grpo.scoring import make_logprobs
from reskill_jax.grpo.supervised import make_supervised_update
from reskill_jax.policy.config import DecoderConfig
from reskill_jax.policy.decoder import Params
from reskill_jax.rollout.prompts import Conversation, PromptBuilder
from reskill_jax.rollout.types import Episode, Turn
from reskill_jax.warm_start.demonstrator import Demonstration


@dataclass(frozen=True)
class Phase:
    """A stretch of training: warm-up, then cosine decay to nothing.

    Attributes:
        steps: optimiser steps.
        batch: demonstrations per step.
        learning_rate: the peak.
    """

    steps: int
    batch: int
    learning_rate: float


def as_episode(prompts: PromptBuilder, demonstration: Demonstration) -> Episode:
    """Render a demonstration as the collector would have recorded it."""
    task, moments = demonstration.task, demonstration.moments
    episode = Episode(task, 0, 0, 0, "", goal=demonstration.goal)
    talk = Conversation(prompts, demonstration.goal, moments[0].observation)
    after = [*(moment.observation for moment in moments[1:])]
    for moment, observation in zip(
        moments, [*after, demonstration.final_observation], strict=True
    ):
        prompt = talk.prompt(moment.admissible, moment.skills)
        text = f"<action>{moment.action}</action>"
        response = [*prompts.tokenizer.encode(text), prompts.tokenizer.eos_id]
        episode.turns.append(
            Turn(
                window=prompt.window,
                trunk_length=prompt.trunk_length,
                branch=np.asarray(prompt.branch, np.int32),
                response=np.asarray(response, np.int32),
                logprobs=np.zeros(len(response), np.float32),
                version=0,
                observation=moment.observation,
                text=text,
                action=moment.action,
                valid=True,
                fired=tuple(skill.name for skill in moment.skills),
            )
        )
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
    decoder: DecoderConfig, params: Params, phase: Phase, episodes: Iterator[Episode]
) -> Params:
    """Train on an endless stream of episodes for one phase; `params` are donated."""
    schedule = optax.warmup_cosine_decay_schedule(
        0.0, phase.learning_rate, phase.steps // 15, phase.steps
    )
    # Few steps: the second moment must not remember the first ones.
    tx = make_optimizer(schedule, b2=0.95)
    update = make_supervised_update(make_logprobs(decoder), tx)
    state = init_state(params, tx)
    steps = tqdm.trange(phase.steps, desc="warm start", mininterval=10)
    for _ in steps:
        batch = _pack(list(itertools.islice(episodes, phase.batch)))
        state, metrics = update(state, batch)
        steps.set_postfix(loss=metrics["supervised/loss"])
    return state.params


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
    return pack(episodes, buckets=(512, 768), tokens_per_microbatch=3072)
