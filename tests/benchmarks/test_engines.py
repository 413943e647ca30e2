"""What the benchmark of engines lets them play, and that their answers are checked."""

import jax
import pytest

from reskill_jax.benchmarks import engines, players
from reskill_jax.policy.weights import load
from reskill_jax.rollout.jax.engine import JaxEngine

WORK = engines.Work(
    groups=2, rollouts=3, turns=4, head=30, step=(3, 6), branch=(5, 9), response=4
)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Directory, shape and weights of the benchmark's model."""
    directory = tmp_path_factory.mktemp("model")
    engines.write_model(directory)
    return directory, *load(directory)


def make(model, eos_ids=()):
    sizes = {"max_sequences": 8, "context": 64, "block_size": 8, "prefill_rows": 4}
    engine = JaxEngine(*model[1:], eos_ids=eos_ids, decode_rows=4, **sizes)
    return engine, players.OnEngine(engine, 4, lambda: engine.counters["prefilled"])


def shared(first, second):
    """How many tokens two prompts begin with alike."""
    same = [a == b for a, b in zip(first, second, strict=False)]
    return [*same, False].index(False)


def test_prompts_are_trunks_with_branches():
    play = engines.prompts(WORK, 1000, seed=0)
    assert [len(episode) for episode in play] == 6 * [4]
    for turns in play:
        for number, prompt in enumerate(turns):
            assert 30 + 3 * number + 5 <= len(prompt) <= 30 + 6 * number + 9
            assert set(prompt) <= set(range(1000))
        # The trunk stays, with what the last turn added; the branch goes.
        for number in range(1, 4):
            common = shared(turns[number - 1], turns[number])
            trunk = shared(turns[number], turns[-1])
            assert 30 + 3 * (number - 1) <= common <= 30 + 6 * (number - 1) + 1
            assert number == 3 or trunk > common
    assert shared(play[0][-1], play[1][-1]) == 30  # of one group
    assert shared(play[0][-1], play[3][-1]) == 0
    assert max(len(turns[-1]) for turns in play) + WORK.response <= WORK.context
    assert WORK.responses == sum(map(len, play))
    assert engines.prompts(WORK, 1000, seed=0) == play
    assert engines.prompts(WORK, 1000, seed=1) != play


def test_our_engine_answers_all_and_prefills_what_is_new(model):
    engine, player = make(model)
    play = engines.prompts(WORK, 1000, seed=0)
    player.play(play)
    assert engine.counters["decoded"] == WORK.responses * 4
    given = sum(len(prompt) for turns in play for prompt in turns)
    assert engine.counters["prompt"] == given
    assert 0 < player.prefilled() < given / 2
    batch = [turns[0] for turns in play]
    answers = player.answer(batch)
    assert players.difference(*model[1:], batch, answers) < engines.TOLERANCE
    engine.close()


def test_another_policy_is_noticed(model):
    engine, player = make(model)
    batch = [turns[0] for turns in engines.prompts(WORK, 1000, seed=0)]
    other = jax.tree.map(lambda x: x * 1.1, model[2])
    answers = player.answer(batch)
    assert players.difference(model[1], other, batch, answers) > engines.TOLERANCE
    engine.close()


def test_responses_that_end_early_are_unequal_work(model):
    (prompt,) = engines.prompts(engines.Work(1, 1, 1), 1000, seed=0)[0]
    engine, player = make(model)
    ((tokens, _),) = player.answer([prompt[:30]])
    engine.close()
    engine, player = make(model, eos_ids=tokens[:1])
    with pytest.raises(RuntimeError, match="a response of 1 tokens: unequal work"):
        player.answer([prompt[:30]])
    engine.close()


def test_transformers_plays_the_same_policy_also_with_padding(model):
    pytest.importorskip(
        "torch", reason="needs the extra parity: pip install '.[parity]'"
    )
    player = players.OnTransformers(model[0], 4)
    play = engines.prompts(WORK, 1000, seed=0)
    player.play(play)
    given = sum(len(prompt) for turns in play for prompt in turns)
    assert player.prefilled() == given
    batch = [turns[-1] for turns in play]
    assert len(set(map(len, batch))) > 1
    answers = player.answer(batch)
    assert all(len(tokens) == len(logprobs) == 4 for tokens, logprobs in answers)
    assert players.difference(*model[1:], batch, answers) < engines.TOLERANCE


def test_each_call_plays_the_next():
    played = []
    first, second = (engines.prompts(WORK, 1000, seed) for seed in range(2))
    step = engines.one_by_one(played.append, [first, second])
    step()
    step()
    assert played == [first, second]


def test_a_server_says_what_its_cache_did_not_find():
    text = (
        "# TYPE vllm:prefix_cache_queries_total counter\n"
        'vllm:prefix_cache_queries_total{engine="0"} 1000.0\n'
        'vllm:prefix_cache_queries_created{engine="0"} 1.7e9\n'
        'vllm:prefix_cache_hits_total{engine="0"} 250.0\n'
    )
    assert engines.not_found(text) == 750.0
