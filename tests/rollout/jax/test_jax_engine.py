import asyncio
import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reskill_jax.policy.decoder import init
from reskill_jax.policy.decoder_config import DecoderConfig
from reskill_jax.policy.logprobs import token_logprobs
from reskill_jax.rollout.engine import Completion, Request, Sampling
from reskill_jax.rollout.jax.engine import JaxEngine

CONFIG = DecoderConfig(
    vocab_size=97,
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=8,
)
EOS = 3
PARAMS = init(CONFIG, jax.random.key(0))
# Sharper than fresh weights, so that responses end and greedy differs from sampled.
PARAMS["norm"]["scale"] = PARAMS["norm"]["scale"] * 8


def make(**changes) -> JaxEngine:
    sizes = {
        "max_sequences": 8,
        "context": 96,
        "block_size": 8,
        "prefill_rows": 4,
        "decode_rows": 4,
        "decode_steps": 3,
    }
    return JaxEngine(CONFIG, PARAMS, **{"eos_ids": (EOS,), **sizes, **changes})


@pytest.fixture(scope="module")
def engine():
    engine = make()
    yield engine
    engine.close()


def prompt(seed: int, length: int) -> list[int]:
    return np.random.default_rng(seed).integers(4, 97, length).tolist()


def ask(session: str, ids: list[int], seed: int = 0, **sampling) -> Request:
    return Request(session, ids, Sampling(**{"max_tokens": 9, **sampling}), seed)


def run(engine: JaxEngine, *requests: Request) -> list[Completion]:
    async def main():
        return await asyncio.gather(*(engine.generate(r) for r in requests))

    return asyncio.run(main())


def same(a: Completion, b: Completion) -> bool:
    return (
        a.tokens.tobytes() == b.tokens.tobytes()
        and a.logprobs.tobytes() == b.logprobs.tobytes()
        and a.stopped == b.stopped
    )


@functools.partial(jax.jit, static_argnums=2)
def score(row, temperature, config=CONFIG):
    length = row.shape[1] - 1
    return token_logprobs(
        config,
        PARAMS,
        row[:, :-1],
        jnp.broadcast_to(jnp.arange(length), (len(row), length)),
        jnp.full((len(row), length), length),
        row[:, 1:],
        temperature=temperature,
    )[0]


def trainer_logprobs(ids, response, temperature, config=CONFIG) -> np.ndarray:
    row = np.zeros((1, 96), np.int32)
    row[0, : len(ids) + len(response)] = [*ids, *response]
    stop = len(ids) + len(response) - 1
    return np.asarray(score(row, temperature, config))[0, len(ids) - 1 : stop]


def next_logprobs(ids, temperature) -> np.ndarray:
    """Log-probs of every token after `ids`, [V]."""
    rows = np.zeros((97, 96), np.int32)
    rows[:, : len(ids)] = ids
    rows[:, len(ids)] = np.arange(97)
    return np.asarray(score(rows, temperature))[:, len(ids) - 1]


@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.0])
def test_logprobs_agree_with_the_trainer_over_turns(engine, temperature):
    ids = prompt(1, 30)
    for turn in range(4):
        request = ask("agree", ids, seed=turn, temperature=temperature)
        (done,) = run(engine, request)
        expected = trainer_logprobs(ids, done.tokens, temperature or 1.0)
        np.testing.assert_allclose(done.logprobs, expected, atol=1e-4)
        ids = [*ids, *done.tokens.tolist(), *prompt(10 + turn, 5)]


def test_greedy_takes_the_likeliest_token(engine):
    ids = prompt(2, 17)
    (done,) = run(engine, ask("greedy", ids, temperature=0.0, max_tokens=3))
    for n, token in enumerate(done.tokens):
        row = [*ids, *done.tokens[:n].tolist()]
        assert int(np.argmax(next_logprobs(row, 1.0))) == token


def crowd(count: int) -> list[Request]:
    rng = np.random.default_rng(5)
    requests = []
    for n in range(count):
        kept, new = rng.integers(1, 40, 2).tolist()
        ids = [*prompt(n % 3, 40)[:kept], *prompt(100 + n, new)]
        how = {"temperature": (0.0, 0.6, 1.0)[n % 3], "top_p": (1.0, 0.8)[n % 2]}
        requests.append(ask(f"s{n}", ids, seed=n, **how))
    return requests


def test_result_does_not_depend_on_the_load(engine):
    requests = crowd(24)
    alone = [run(make(), request)[0] for request in requests[:6]]
    alone += [run(engine, request)[0] for request in requests[6:]]
    for order in (requests, requests[::-1]):
        fresh = make()
        crowded = dict(zip([r.session for r in order], run(fresh, *order), strict=True))
        again = run(fresh, *requests)  # with every prefix kept
        for request, one, kept in zip(requests, alone, again, strict=True):
            assert same(one, crowded[request.session]), request.session
            assert same(one, kept), request.session


def test_result_does_not_depend_on_eviction():
    requests = crowd(24)
    small, large = make(max_sequences=1), make(max_sequences=64)
    for a, b in zip(run(small, *requests), run(large, *requests), strict=True):
        assert same(a, b)
    assert small.counters["reused"] < large.counters["reused"]


def test_kept_prefixes_are_not_computed_again():
    engine, ids = make(), prompt(1, 40)
    run(engine, *(ask(f"g{n}", [*ids, 5 + n, 6], seed=n) for n in range(4)))
    assert engine.counters["prefilled"] == 40 + 4  # one head, four tails of a token
    assert engine.counters["reused"] == 3 * 40


def test_bfloat16_agrees_with_the_bfloat16_trainer():
    config = dataclasses.replace(CONFIG, dtype="bfloat16")
    engine = JaxEngine(config, PARAMS, eos_ids=(EOS,), max_sequences=4, context=96)
    ids = prompt(8, 40)
    (done,) = run(engine, ask("half", ids))
    expected = trainer_logprobs(ids, done.tokens, 1.0, config)
    np.testing.assert_allclose(done.logprobs, expected, atol=0.3)
    assert np.abs(done.logprobs - expected).mean() < 0.1


def test_seeds_decide_what_is_sampled(engine):
    ids = prompt(3, 20)
    same_seed = run(engine, *(ask(f"a{n}", ids, seed=7) for n in range(3)))
    assert all(same(same_seed[0], other) for other in same_seed)
    others = run(engine, *(ask(f"b{n}", ids, seed=n) for n in range(20)))
    assert len({done.tokens.tobytes() for done in others}) > 10


def test_sampling_follows_the_distribution(engine):
    ids, count = prompt(4, 9), 400
    how = {"temperature": 1.5, "max_tokens": 1}
    done = run(engine, *(ask(f"d{n}", ids, seed=n, **how) for n in range(count)))
    sampled = np.bincount([d.tokens[0] for d in done], minlength=97) / count
    row = next_logprobs(ids, 1.5)
    np.testing.assert_allclose(np.exp(row).sum(), 1, atol=1e-4)
    # Total variation of 400 draws from 97 outcomes stays well below a half.
    assert np.abs(sampled - np.exp(row)).sum() / 2 < 0.2
    kept = run(
        engine, *(ask(f"n{n}", ids, seed=n, **how, top_p=0.3) for n in range(99))
    )
    order = np.argsort(row)[::-1]
    nucleus = order[: np.searchsorted(np.cumsum(np.exp(row)[order]), 0.3) + 1]
    assert {int(d.tokens[0]) for d in kept} <= set(nucleus.tolist())


def test_stops_at_the_end_of_turn_or_the_limit(engine):
    done = run(engine, *(ask(f"e{n}", prompt(n, 12), seed=n) for n in range(60)))
    assert {d.stopped for d in done} == {True, False}
    for d in done:
        assert (d.tokens[-1] == EOS) == d.stopped
        assert EOS not in d.tokens[:-1]
        assert d.stopped or len(d.tokens) == 9
        assert len(d.tokens) == len(d.logprobs)


@pytest.mark.parametrize("eos_ids", [(), (EOS,), (EOS, 17, 40), (40, 17)])
def test_any_of_the_end_tokens_ends_a_response(eos_ids):
    """The same tokens are drawn whatever ends them: all is a cut of the longest."""
    endless, engine = make(eos_ids=()), make(eos_ids=eos_ids)
    requests = [ask(f"e{n}", prompt(n, 12), seed=n, max_tokens=40) for n in range(24)]
    for whole, cut in zip(run(endless, *requests), run(engine, *requests), strict=True):
        assert len(whole.tokens) == 40
        assert not whole.stopped
        ends = [n for n, token in enumerate(whole.tokens) if token in eos_ids]
        length = ends[0] + 1 if ends else 40
        np.testing.assert_array_equal(cut.tokens, whole.tokens[:length])
        np.testing.assert_array_equal(cut.logprobs, whole.logprobs[:length])
        assert cut.stopped == bool(ends)


def test_push_changes_weights_between_requests():
    engine, ids = make(), prompt(6, 20)
    (old,) = run(engine, ask("p", ids))
    other = jax.tree.map(lambda x: x * 1.1, PARAMS)
    engine.push(other, version=4)
    jax.tree.map(lambda x: x.delete(), other)  # the trainer donates what it pushed
    (new,) = run(engine, ask("p", ids))
    assert (old.version, new.version) == (0, 4)
    assert not np.array_equal(old.logprobs, new.logprobs)
    engine.push(PARAMS, version=5)
    (back,) = run(engine, ask("p", ids))
    assert same(old, back)
    assert back.version == 5


def test_push_while_running_ends_requests_on_their_own_weights():
    engine = make()
    requests = [ask(f"w{n}", prompt(n, 20), seed=n) for n in range(12)]
    expected = run(engine, *requests)

    async def main():
        begun = [asyncio.create_task(engine.generate(r)) for r in requests]
        while not engine.counters["decoded"] > sum(len(e.tokens) for e in expected):
            await asyncio.sleep(0)
        engine.push(jax.tree.map(lambda x: x * 1.1, PARAMS), version=1)
        late = await engine.generate(requests[0])
        return await asyncio.gather(*begun), late

    done, late = asyncio.run(main())
    assert late.version == 1
    assert {d.version for d in done} <= {0, 1}
    for one, other in zip(done, expected, strict=True):
        assert same(one, other) == (one.version == 0)


def test_too_long_prompts_are_refused_with_numbers(engine):
    with pytest.raises(ValueError, match=r"90 tokens .*9 = 99 .*context=96"):
        run(engine, ask("long", prompt(0, 90)))
    with pytest.raises(ValueError, match="temperature=-1"):
        run(engine, ask("cold", prompt(0, 9), temperature=-1.0))


def test_a_failure_reaches_every_waiter_and_the_engine_recovers(monkeypatch):
    engine = make()
    requests = crowd(10)
    expected = run(engine, *requests)

    def fail(*_):
        raise MemoryError("no room on the device")

    async def main():
        calls = (engine.generate(r) for r in requests)
        return await asyncio.gather(*calls, return_exceptions=True)

    with monkeypatch.context() as patch:
        patch.setattr(engine, "_decode", fail)
        assert all(isinstance(r, MemoryError) for r in asyncio.run(main()))
    for one, other in zip(run(engine, *requests), expected, strict=True):
        assert same(one, other)


def test_cancelled_runs_leave_a_usable_engine():
    engine = make()
    requests = crowd(10)
    expected = run(engine, *requests)

    async def give_up():
        calls = [asyncio.create_task(engine.generate(r)) for r in requests]
        calls[3].cancel()
        await calls[0]

    asyncio.run(give_up())
    for one, other in zip(run(engine, *requests), expected, strict=True):
        assert same(one, other)


def test_a_closed_engine_says_so():
    engine = make()
    engine.close()
    with pytest.raises(RuntimeError, match="closed"):
        run(engine, ask("x", [5, 6]))


def test_asleep_it_waits_for_weights_and_wakes_up_as_it_was():
    engine = make()
    request = ask("s", prompt(0, 30))
    before = run(engine, request)[0]
    engine.sleep()
    with pytest.raises(RuntimeError, match="sleeps: push weights first"):
        run(engine, request)
    engine.push(PARAMS, 1)
    after = run(engine, request)[0]
    assert same(before, after)
    assert (before.version, after.version) == (0, 1)
    engine.close()


def test_it_does_not_sleep_while_requests_run():
    async def main():
        engine = make()
        running = asyncio.ensure_future(engine.generate(ask("s", prompt(0, 30))))
        await asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="cannot sleep while requests"):
            engine.sleep()
        completion = await running
        engine.close()
        return completion

    assert len(asyncio.run(main()).tokens)
