import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from grpo_cases import (
    TASK,
    flatten,
    init_params,
    logprob_fn,
    make_batch,
    make_turn,
    next_logprobs,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.flatten_util import ravel_pytree
from update_cases import (
    DEFAULTS,
    SGD,
    assert_same,
    assert_trees_equal_flat_rows,
    compiled_update,
    train,
)

from reskill_jax.grpo.aggregation import AGGREGATIONS
from reskill_jax.grpo.estimators import ESTIMATORS, Estimator
from reskill_jax.grpo.optimizer import (
    init_state,
    make_optimizer,
    make_step,
)
from reskill_jax.grpo.update import make_update, split_groups
from reskill_jax.policy import decoder
from reskill_jax.policy.compute import Compute
from reskill_jax.policy.decoder_config import DecoderConfig
from reskill_jax.policy.logprobs import token_logprobs
from reskill_jax.policy.ops import attention, block_attention
from reskill_jax.policy.sharding import move
from reskill_jax.rollout.episode import Episode

CONFIG = DecoderConfig(
    vocab_size=16,
    hidden_size=16,
    intermediate_size=32,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=8,
)


def decoder_logprobs(params, packed):
    fields = ("tokens", "positions", "visible_end", "targets")
    arrays = [getattr(packed, name) for name in fields]
    compute = Compute(logprob_chunk=32)
    return token_logprobs(CONFIG, params, *arrays, compute=compute)[0]


@settings(max_examples=6, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_microbatches_padding_and_order_do_not_matter(seed):
    episodes = make_batch(seed)
    order = np.random.default_rng(seed).permutation(len(episodes))
    whole = train(episodes)
    cut = train(episodes, buckets=(32, 64), tokens_per_microbatch=128)
    padded = train(episodes, buckets=(96,), tokens_per_microbatch=400)
    shuffled = train([episodes[i] for i in order])
    assert cut[1]["batch/microbatches"] > whole[1]["batch/microbatches"]
    assert padded[1]["batch/fill"] != whole[1]["batch/fill"]
    for other in (cut, padded, shuffled):
        assert_same(whole, other)


@settings(max_examples=6, deadline=None)
@given(
    seed=st.integers(0, 10**6), old_logprobs=st.sampled_from(["sampler", "recompute"])
)
def test_trees_equal_one_row_per_turn(seed, old_logprobs):
    """Of ragged episodes; the reference's log-probs and the old policy's count, too."""
    assert_trees_equal_flat_rows(make_batch(seed), old_logprobs=old_logprobs)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_trees_equal_one_row_per_turn_with_every_estimator(name):
    episodes = make_batch(3)
    for episode in episodes:
        episode.arm_effect = 0.2 * (episode.index % 2)
    assert_trees_equal_flat_rows(episodes, estimator=Estimator(name))


@pytest.mark.parametrize("long", [64, 65])
def test_trees_equal_one_row_per_turn_in_the_decoder(long, monkeypatch):
    """With attention that skips blocks in rows of 64, and with dense attention."""
    monkeypatch.setattr(attention, "_LONG", long)
    monkeypatch.setattr(block_attention, "BLOCK", 16)
    visited = []
    sparse = block_attention.sparse
    monkeypatch.setattr(
        block_attention, "sparse", lambda *a: visited.append(1) or sparse(*a)
    )

    def model(params, packed):  # a new one, to be compiled anew
        return decoder_logprobs(params, packed)

    params = decoder.init(CONFIG, jax.random.key(0))
    assert_trees_equal_flat_rows(make_batch(0), model=model, params=params)
    assert bool(visited) == (long == 64)


def test_gradient_equals_that_of_the_formula():
    """The paper's objective on padded flat prompts, differentiated by JAX."""
    episodes = make_batch(11, groups=2, size=3)
    rewards = np.array([e.reward for e in episodes]).reshape(2, 3)
    centred = rewards - rewards.mean(1, keepdims=True)
    adv = (centred / (rewards.std(1, ddof=1, keepdims=True) + 1e-6)).ravel()

    length = 32
    rows = []  # ids, targets, old log-probs, advantages, weights: [length] each
    for episode, a in zip(episodes, adv, strict=True):
        total = sum(len(turn.response) for turn in episode.turns)
        for turn in flatten(episode).turns:
            row = np.zeros((5, length))
            n, m = len(turn.branch), len(turn.response)
            row[0, : n + m] = np.concatenate([turn.branch, turn.response])
            row[1, n - 1 : n + m - 1] = turn.response
            row[2, n - 1 : n + m - 1] = turn.logprobs
            row[3] = a - 0.1 * (not turn.valid)
            row[4, n - 1 : n + m - 1] = 1 / total / len(episodes)
            rows.append(row)
    ids, targets, old, a, weight = np.stack(rows, 1)

    @jax.jit
    def objective(params):
        logprobs = next_logprobs(
            params, ids.astype(int), np.arange(length), np.tri(length)
        )
        at = targets.astype(int)[..., None]
        ratio = jnp.exp(jnp.take_along_axis(logprobs, at, -1)[..., 0] - old)
        gain = jnp.minimum(ratio * a, jnp.clip(ratio, 0.8, 1.2) * a)
        return -jnp.sum(weight * jnp.where(a < 0, jnp.maximum(gain, 3.0 * a), gain))

    params = init_params()
    loss, grads = jax.value_and_grad(objective)(params)
    new, metrics = train(episodes, kl_coef=0.0)
    assert metrics["grpo/loss"] == pytest.approx(float(loss), rel=1e-4)
    jax.tree.map(
        lambda n, p, g: np.testing.assert_allclose(n, p - g, rtol=1e-4, atol=1e-6),
        new,
        params,
        grads,
    )


def test_tied_groups_without_penalty_leave_the_weights_alone():
    episodes = make_batch(5, reward=1.0)
    new, metrics = train(episodes, kl_coef=0.0, invalid_penalty=0.0)
    jax.tree.map(np.testing.assert_array_equal, new, init_params())
    assert metrics["adv/zero_std_groups"] == 3
    assert metrics["update/grad_norm"] == 0


def tie(episodes, *groups):
    """Let all episodes of some groups win."""
    for episode in episodes:
        if episode.group in groups:
            episode.reward = episode.turns[-1].reward = 1.0
        elif episode.index < 2:
            episode.reward = episode.turns[-1].reward = float(episode.index)
    return episodes


PURE = {"kl_coef": 0.0, "invalid_penalty": 0.0}  # nothing but the surrogate


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_dropping_tied_groups_saves_tokens_and_changes_nothing_else(aggregation):
    episodes = tie(make_batch(5), 1)
    options = PURE | {"aggregation": aggregation, "tx": optax.sgd(100.0)}
    options["longest_episode"] = 20
    whole = train(episodes, **options)
    dropped = train(episodes, drop_zero_variance=True, **options)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
        whole[0],
        dropped[0],
    )
    # The loss itself is over the weights that are left, two thirds or so.
    assert dropped[1]["batch/tokens"] < whole[1]["batch/tokens"]
    assert dropped[1]["batch/dropped_groups"] == pytest.approx(1 / 3)
    assert 0 < dropped[1]["batch/dropped_tokens"] < 1


def test_the_normaliser_does_not_depend_on_how_many_groups_tie():
    """A group's gradient is a third of that which it has alone."""
    episodes = tie(make_batch(5), 0, 2)
    options = PURE | {"drop_zero_variance": True, "tx": optax.sgd(100.0)}
    alone = [episode for episode in episodes if episode.group == 1]
    among, by_itself = (train(e, **options)[0] for e in (episodes, alone))
    before = init_params()
    small, large = (
        ravel_pytree(after)[0] - ravel_pytree(before)[0] for after in (among, by_itself)
    )
    np.testing.assert_allclose(3 * small, large, rtol=1e-3, atol=1e-3)


def test_dropped_episodes_leave_the_cut_responses_out_as_others_do():
    """With overlong=mask the normaliser has none of them, dropped or not."""
    episodes = tie(make_batch(5), 1)
    for episode in episodes:
        episode.turns[0].stopped = len(episode.turns) == 1
    options = PURE | {"overlong": "mask", "aggregation": "token"}
    options["tx"] = optax.sgd(100.0)
    whole, _ = train(episodes, **options)
    dropped, _ = train(episodes, drop_zero_variance=True, **options)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
        whole,
        dropped,
    )


def test_a_minibatch_of_tied_groups_is_no_step():
    episodes = tie(make_batch(9), 0, 2)
    options = PURE | {"drop_zero_variance": True, "minibatches": 3}
    update = compiled_update(logprob_fn, SGD, frozenset(options.items()))
    state, metrics = update(init_state(init_params(), SGD), None, episodes, seed=0)
    assert int(state.step) == 1
    assert metrics["batch/dropped_groups"] == pytest.approx(2 / 3)
    assert "rollout/logprob_diff" in metrics  # of the first step that was taken


def test_a_batch_of_tied_groups_leaves_the_state_alone():
    options = {"drop_zero_variance": True, "minibatches": 3}
    new, metrics = train(tie(make_batch(9), 0, 1, 2), **options)
    jax.tree.map(np.testing.assert_array_equal, new, init_params())
    assert metrics["batch/dropped_groups"] == metrics["batch/dropped_tokens"] == 1
    assert metrics["batch/tokens"] == metrics["batch/microbatches"] == 0


def test_figures_of_a_batch_without_any_turn_are_finite():
    """All of its episodes were over before they began."""
    episodes = [dataclasses.replace(e, turns=[], trunks=[]) for e in make_batch(9)]
    _, metrics = train(episodes, drop_zero_variance=True)
    assert np.isfinite([*metrics.values()]).all()
    assert metrics["batch/dropped_tokens"] == 0


def test_the_released_codes_rule_has_nothing_to_drop():
    episodes = tie(make_batch(9), 0, 1)
    whole, _ = train(episodes, rule="reference")
    kept, metrics = train(episodes, rule="reference", drop_zero_variance=True)
    jax.tree.map(np.testing.assert_array_equal, kept, whole)
    assert metrics["batch/dropped_groups"] == 0


def test_an_update_scales_rewards_before_advantages():
    options = {"estimator": Estimator("dr_grpo"), "invalid_penalty": 0.0}
    _, plain = train(make_batch(5), **options)
    _, scaled = train(make_batch(5), reward_scale=10.0, **options)
    assert plain["adv/abs_max"] > 0
    assert scaled["adv/abs_max"] == pytest.approx(10 * plain["adv/abs_max"])


def test_same_inputs_same_bits():
    options = {"tx": make_optimizer(1e-2), "minibatches": 2, "seed": 3}
    first = train(make_batch(7), **options)
    second = train(make_batch(7), **options)
    jax.tree.map(np.testing.assert_array_equal, first[0], second[0])
    assert first[1] == second[1]


def test_recomputed_old_logprobs_ignore_the_engine():
    episodes = make_batch(8)
    new, metrics = train(episodes, old_logprobs="recompute")
    assert metrics["grpo/ratio"] == pytest.approx(1, abs=1e-5)
    assert metrics["grpo/clip_fraction"] == 0
    for episode in episodes:
        for turn in episode.turns:
            turn.logprobs = turn.logprobs - 1
    again, _ = train(episodes, old_logprobs="recompute")
    jax.tree.map(np.testing.assert_array_equal, new, again)
    sampler, _ = train(episodes, old_logprobs="sampler")
    assert not np.allclose(sampler["out"], new["out"])


def test_old_logprobs_are_those_before_the_first_minibatch():
    """With a step in between, ratios leave 1."""
    _, metrics = train(make_batch(8), old_logprobs="recompute", minibatches=3)
    assert metrics["grpo/ratio"] != pytest.approx(1, abs=1e-4)


def test_minibatches_are_one_step_each_on_whole_groups():
    episodes, reference = make_batch(9), init_params(1)
    update = compiled_update(logprob_fn, SGD, frozenset({("minibatches", 3)}))
    state = init_state(init_params(), SGD)
    state, _ = update(state, reference, episodes, seed=0)

    single = compiled_update(logprob_fn, SGD, frozenset())
    other = init_state(init_params(), SGD)
    for chosen in split_groups([e.group for e in episodes], 3, 0):
        other, _ = single(other, reference, [episodes[i] for i in chosen], seed=0)
    assert int(state.step) == int(other.step) == 3
    jax.tree.map(np.testing.assert_array_equal, state.params, other.params)


def test_fewer_groups_than_minibatches_take_a_step_each():
    episodes, reference = make_batch(9), init_params(1)
    two = sorted({episode.group for episode in episodes})[:2]
    episodes = [episode for episode in episodes if episode.group in two]
    states = []
    for minibatches in (2, 3):
        options = frozenset({("minibatches", minibatches)})
        update = compiled_update(logprob_fn, SGD, options)
        state, _ = update(init_state(init_params(), SGD), reference, episodes, seed=0)
        assert int(state.step) == 2
        states.append(state.params)
    jax.tree.map(np.testing.assert_array_equal, *states)


def test_agreement_is_measured_on_the_first_step_only():
    episodes, options = make_batch(10), {"minibatches": 3, "seed": 4}
    _, metrics = train(episodes, **options)
    chosen = split_groups([e.group for e in episodes], 3, 4)[0]
    _, first = train([episodes[i] for i in chosen])
    names = [name for name in metrics if name.startswith("rollout/logprob_")]
    assert len(names) == 3
    for name in names:
        assert metrics[name] == pytest.approx(first[name], rel=1e-5)


@settings(max_examples=50, deadline=None)
@given(
    groups=st.lists(st.integers(0, 5), min_size=1, max_size=30),
    seed=st.integers(0, 99),
    data=st.data(),
)
def test_split_keeps_groups_whole(groups, seed, data):
    names = set(groups)
    count = data.draw(st.integers(1, len(names)))
    parts = split_groups(groups, count, seed)
    assert sorted(np.concatenate(parts)) == list(range(len(groups)))
    owners = [{groups[i] for i in part} for part in parts]
    assert sum(map(len, owners)) == len(names)
    assert max(map(len, owners)) - min(map(len, owners)) <= 1
    again = split_groups(groups, count, seed)
    assert all((a == b).all() for a, b in zip(parts, again, strict=True))


def test_split_depends_on_the_seed_and_refuses_too_many():
    groups = np.repeat(np.arange(8), 2)
    splits = {tuple(split_groups(groups, 2, seed)[0]) for seed in range(5)}
    assert len(splits) > 1
    with pytest.raises(ValueError, match=r"minibatches=9 but .* 8 groups"):
        split_groups(groups, 9, 0)


def test_non_finite_gradients_stop_and_spare_the_weights():
    episodes = make_batch(12)
    episodes[0].turns[0].logprobs[0] = np.nan
    update = compiled_update(logprob_fn, SGD, frozenset())
    state = init_state(init_params(), SGD)
    with pytest.raises(FloatingPointError, match=r"optimiser step 0: .*nan"):
        update(state, init_params(1), episodes, seed=0)
    jax.tree.map(np.testing.assert_array_equal, state.params, init_params())


def test_a_reference_may_wait_in_the_memory_of_the_host():
    params, reference = init_params(), init_params(1)
    update = compiled_update(logprob_fn, SGD, frozenset())
    on_device, _ = update(init_state(params, SGD), reference, make_batch(0), seed=0)
    waiting = move(reference, "pinned_host")
    from_host, metrics = update(
        init_state(init_params(), SGD), waiting, make_batch(0), seed=0
    )
    assert metrics["grpo/kl"] > 0
    jax.tree.map(np.testing.assert_array_equal, on_device, from_host)
    kinds = {x.sharding.memory_kind for x in jax.tree.leaves(waiting)}
    assert kinds == {"pinned_host"}


def test_the_state_is_donated_and_the_reference_is_not():
    update = compiled_update(logprob_fn, SGD, frozenset())
    state, reference = init_state(init_params(), SGD), init_params(1)
    new, _ = update(state, reference, make_batch(0), seed=0)
    assert all(x.is_deleted() for x in jax.tree.leaves(state.params))
    assert not any(x.is_deleted() for x in jax.tree.leaves((reference, new)))


def test_gradients_are_clipped_by_their_global_norm():
    tx = optax.chain(optax.clip_by_global_norm(0.01), optax.sgd(1.0))
    new, metrics = train(make_batch(0), tx=tx)
    moved = optax.tree.norm(jax.tree.map(jnp.subtract, new, init_params()))
    assert metrics["update/grad_norm"] > 0.01
    assert float(moved) == pytest.approx(0.01, rel=1e-3)


def test_optimizer_is_adamw_on_a_schedule():
    schedule = optax.linear_schedule(0.0, 0.1, 2)
    tx = make_optimizer(schedule, clip_norm=1e9, weight_decay=0.5)
    params, grads = {"w": jnp.float32(2.0)}, {"w": jnp.float32(0.3)}
    state, w, m, v = tx.init(params), 2.0, 0.0, 0.0
    for step in range(4):
        updates, state = tx.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        m, v = 0.9 * m + 0.1 * 0.3, 0.999 * v + 0.001 * 0.3**2
        t, rate = step + 1, min(0.05 * step, 0.1)
        adam = (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
        w -= rate * (adam + 0.5 * w)
        assert float(params["w"]) == pytest.approx(w, rel=1e-5)


def test_a_step_needs_microbatches():
    step = make_step(lambda params, batch: (params, {}), SGD)
    with pytest.raises(ValueError, match="without micro-batches"):
        step(init_state(jnp.ones(()), SGD), [])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"old_logprobs": "engine"}, r"old_logprobs='engine'"),
        ({"dual_clip": 1.0}, r"dual_clip=1\.0"),
    ],
)
def test_bad_options_are_refused_before_any_work(options, words):
    with pytest.raises(ValueError, match=words):
        make_update(logprob_fn, SGD, **(DEFAULTS | options))


def test_a_policy_learns_what_is_rewarded():
    """A two-armed bandit: the answer 3 is right, 4 is wrong; sampled on policy."""
    tx = make_optimizer(0.02, weight_decay=0.0)
    update = make_update(
        logprob_fn, tx, buckets=(16,), tokens_per_microbatch=128, kl_coef=0.0
    )
    state, rng = init_state(init_params(), tx), np.random.default_rng(0)
    prompt = make_turn(rng, 0, 0, branch=6)

    def probabilities(params):
        turns = [
            dataclasses.replace(
                prompt,
                response=np.array([answer], np.int32),
                logprobs=np.zeros(1, np.float32),
            )
            for answer in range(11)
        ]
        return turns, _answers(params, turns)

    chances = []
    for step in range(30):
        turns, p = probabilities(state.params)
        chances.append(p[3])
        episodes = []
        for i, answer in enumerate(rng.choice(11, 16, p=p / p.sum())):
            logprobs = np.log(p[[answer]]).astype(np.float32)
            turn = dataclasses.replace(turns[answer], logprobs=logprobs, valid=True)
            reward = float(answer == 3)
            episodes.append(Episode(TASK, 0, i, 0, "", "", [], [turn], "", reward))
        # One rewarded demonstration keeps the group from being tied at the start.
        turn = dataclasses.replace(turns[3], logprobs=np.log(p[[3]]), valid=True)
        episodes.append(Episode(TASK, 0, 16, 0, "", "", [], [turn], "", 1.0))
        state, _ = update(state, None, episodes, seed=step)
    assert chances[0] < 0.3
    assert chances[-1] > 0.8


def _answers(params, turns):
    from reskill_jax.grpo.packing import pack

    episodes = [Episode(TASK, 0, 0, 0, "", "", [], [turn]) for turn in turns]
    (packed,) = pack(episodes, buckets=[128], tokens_per_microbatch=128)
    p = np.exp(np.asarray(logprob_fn(params, packed), np.float64))
    order = packed.episode[packed.mask > 0]
    return p[packed.mask > 0][np.argsort(order)]
