"""The meter tells a policy that obeys a skill from one that ignores it."""

import copy

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from grpo_cases import (
    VOCAB,
    flat_prompt,
    init_params,
    logprob_fn,
    make_batch,
    next_logprobs,
    visible,
)

from reskill_jax.codec import encode
from reskill_jax.grpo.optimizer import init_state
from reskill_jax.grpo.scoring import make_logprobs
from reskill_jax.grpo.skill_meter import make_skill_meter
from reskill_jax.grpo.update import make_update
from reskill_jax.policy.decoder import init
from reskill_jax.policy.decoder_config import DecoderConfig
from reskill_jax.policy.lora import TARGETS, Adapted, init_adapters, merge
from reskill_jax.rollout.episode import Ablation

SKILL = VOCAB  # a token that no episode has; it stands for the skill's words


def with_skill(seed=0, name="obeyed"):
    """Episodes that show a skill at every turn but every third."""
    episodes = make_batch(seed)
    lots = np.random.default_rng(seed)
    for number, turn in enumerate(t for e in episodes for t in e.turns):
        if number % 3:
            plain = turn.branch
            turn.branch = np.concatenate([[SKILL], plain]).astype(np.int32)
            turn.active_skills = (name,)
            turn.ablation = Ablation(name, plain, int(lots.integers(2**31)))
    return episodes


def meter_of(model, share=1.0, buckets=(32, 64)):
    return make_skill_meter(model, buckets=buckets, share=share)


def effects(episodes):
    return [t.ablation.effect for e in episodes for t in e.turns if t.ablation]


def obeys(params, packed):
    """Its responses are nine times likelier where it can see the skill."""
    sees = (visible(packed) & (packed.tokens == SKILL)[:, None, :]).any(-1)
    return jnp.log(jnp.where(sees, 0.9, 0.1))


def ignores(params, packed):
    return jnp.full(packed.tokens.shape, jnp.log(0.5))


def test_a_policy_that_obeys_shows_it_and_one_that_ignores_does_not():
    found = {}
    for model in (obeys, ignores):
        episodes = with_skill()
        metrics = meter_of(model)({}, episodes)
        found[model] = metrics["skills/obeyed/effect_logprob"]
        assert metrics["meter/turns"] == len(effects(episodes)) > 10
        assert 0 < metrics["meter/tokens"] <= 1
    assert found[obeys] == pytest.approx(np.log(9), abs=1e-4)
    assert found[ignores] == 0


def flat_logprob(params, prompt, response):
    """Mean log-prob of a response after a flat prompt."""
    tokens = np.concatenate([prompt, response])[None]
    positions = np.arange(tokens.shape[1])[None]
    mask = np.tril(np.ones((tokens.shape[1],) * 2, bool))[None]
    scores = np.asarray(next_logprobs(params, tokens, positions, mask))[0]
    places = np.arange(len(prompt) - 1, tokens.shape[1] - 1)
    return scores[places, response].mean()


def test_effects_are_those_of_flat_prompts():
    params = init_params()
    params["embed"] = jnp.concatenate([params["embed"], params["embed"][:1] + 1])
    episodes = with_skill(1)
    meter_of(logprob_fn)(params, episodes)
    scored = [(e, t) for e in episodes for t in e.turns if t.ablation]
    assert scored
    for episode, turn in scored:
        prompt = flat_prompt(episode, turn)
        without = np.concatenate(
            [prompt[: turn.trunk_length], turn.ablation.branch]
        ).astype(np.int32)
        wanted = flat_logprob(params, prompt, turn.response) - flat_logprob(
            params, without, turn.response
        )
        assert turn.ablation.effect == pytest.approx(wanted, abs=1e-4)


def test_a_small_share_scores_few_turns_and_forgets_the_others():
    episodes = with_skill(2)
    many = len(effects(episodes))
    metrics = meter_of(obeys, share=0.2)({}, episodes)
    assert metrics["meter/tokens"] <= 0.2
    assert 0 < len(effects(episodes)) == metrics["meter/turns"] < many
    assert None not in effects(episodes)
    assert meter_of(obeys, share=0.0001)({}, with_skill(2)) == {
        "meter/turns": 0, "meter/tokens": 0, "time/meter": pytest.approx(0, abs=60),
    }  # fmt: skip


def test_nothing_is_computed_where_nothing_was_recorded():
    def never(params, packed):
        raise AssertionError("it was computed")

    assert meter_of(never)({}, make_batch(0)) == {}


def test_the_same_episodes_have_the_same_effects_whatever_their_order():
    first, second = with_skill(3), with_skill(3)
    meter_of(obeys, share=0.3)({}, first)
    meter_of(obeys, share=0.3)({}, second[::-1])
    assert effects(first) == effects(second) != []
    assert encode(first) == encode(second)


def test_updates_are_the_same_bit_for_bit_after_the_meter():
    """Gradients are of the turns as they were played, and of nothing else."""
    tx = optax.sgd(1.0)
    update = make_update(
        logprob_fn, tx, buckets=(64,), tokens_per_microbatch=512, kl_coef=0.0
    )
    params = init_params()
    params["embed"] = jnp.concatenate([params["embed"], params["embed"][:1]])
    metered = with_skill(4)
    plain = copy.deepcopy(metered)
    for turn in (t for e in plain for t in e.turns):
        turn.ablation = None
    meter_of(logprob_fn)(params, metered)
    assert effects(metered)
    ends = [
        update(init_state(jax.tree.map(jnp.copy, params), tx), None, batch, seed=0)
        for batch in (metered, plain)
    ]
    jax.tree.map(np.testing.assert_array_equal, *(end[0].params for end in ends))
    assert ends[0][1] == ends[1][1]


@pytest.mark.slow
def test_adapters_are_scored_as_the_weights_that_they_are_merged_into():
    config = DecoderConfig(
        vocab_size=VOCAB + 1,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
    )
    base = jax.tree.map(lambda x: 3 * x, init(config, jax.random.key(0)))
    generator = np.random.default_rng(1)
    adapters = jax.tree.map(
        lambda x: np.float32(generator.normal(0, 0.3, x.shape)),
        init_adapters(base, tuple(TARGETS), 2, jax.random.key(1)),
    )
    adapted = Adapted(base, adapters, 2.0)
    meter = meter_of(make_logprobs(config))
    found = []
    for params in (adapted, merge(adapted), base):
        episodes = with_skill()
        meter(params, episodes)
        found.append(np.array(effects(episodes)))
    np.testing.assert_allclose(found[0], found[1], atol=2e-4)
    assert np.abs(found[0] - found[2]).max() > 0.01
