"""A real vLLM server beside us: parity, pushes, and everything that goes wrong."""

import asyncio
import dataclasses
import importlib.util
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from programs import command, deterministic, save_random_policy, written
from programs import start as start_program

from reskill_jax.policy.config import DecoderConfig
from reskill_jax.policy.decoder import init
from reskill_jax.policy.logprobs import token_logprobs
from reskill_jax.policy.tokenizer import train_tokenizer
from reskill_jax.policy.weights import save
from reskill_jax.rollout import vllm_files
from reskill_jax.rollout.types import Request, Sampling
from reskill_jax.rollout.vllm_engine import VllmEngine
from reskill_jax.rollout.vllm_files import FilesTransfer
from reskill_jax.rollout.vllm_server import Server, ServerOptions

# A server takes half a minute to start, and installing it some minutes, once.
pytestmark = [pytest.mark.vllm, pytest.mark.timeout(1800)]
ON_CPU = {
    "TORCHDYNAMO_DISABLE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "OMP_NUM_THREADS": "1",
}
CPU_ARGUMENTS = ("--enforce-eager", "--kv-cache-memory-bytes=33554432")


@pytest.fixture(scope="session")
def executable():
    """`vllm` of an environment that is made if there is none."""
    if path := os.environ.get("RESKILL_VLLM"):
        return path
    script = Path(__file__).parent / "install.sh"
    done = subprocess.run([script], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"vLLM's CPU build cannot be installed: {done.stderr[-500:]}")
    return f"{done.stdout.strip()}/bin/vllm"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A random Qwen3, exported by our own code: directory and shape."""
    directory = tmp_path_factory.mktemp("model")
    tokenizer = train_tokenizer(["You arrive at cabinet 1. go to cabinet 1"] * 3, 300)
    tokenizer.save(directory)
    config = DecoderConfig(
        vocab_size=-(-tokenizer.vocab_size // 64) * 64,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        tie_word_embeddings=False,
        max_position_embeddings=1024,
    )
    save(directory, config, weights(config, 0))
    return directory, config, tokenizer.eos_id


def weights(config, seed):
    """Random weights, large, so that two seeds differ by several nats."""
    params = init(config, jax.random.key(seed))
    return jax.tree.map(lambda x: 3 * x if x.ndim > 2 else x, params)


def logprobs_of(config, params, tokens):
    """What our decoder says of tokens[1:]."""
    tokens = np.asarray(tokens, np.int32)[None]
    length = tokens.shape[1] - 1
    positions = np.arange(length)[None]
    until = np.full((1, length), length)
    score = jax.jit(token_logprobs, static_argnums=0)
    found, _ = score(config, params, tokens[:, :-1], positions, until, tokens[:, 1:])
    return np.asarray(found[0])


def start(executable, model, tmp_path, *, timeout=120.0, servers=None, **options):
    directory, config, eos = model
    if servers is None:
        how = ServerOptions(
            executable=executable,
            model=directory,
            dtype="float32",
            context=512,
            sequences=16,
            memory=0,
            arguments=CPU_ARGUMENTS,
            environment=ON_CPU,
        )
        servers = [Server(how, Path(tempfile.mkdtemp(prefix="reskill-test-")))]
    return VllmEngine(
        config,
        weights(config, 0),
        servers=servers,
        transfer=FilesTransfer(config, tmp_path / "weights"),
        eos_id=eos,
        score=lambda params, tokens: logprobs_of(config, params, tokens),
        tolerance=1e-4,
        timeout=timeout,
        **options,
    )


@pytest.fixture(scope="module")
def engine(executable, model, tmp_path_factory):
    engine = start(executable, model, tmp_path_factory.mktemp("engine"), timeout=20.0)
    yield engine
    engine.close()


@pytest.fixture
def fresh(engine, model):
    """The engine, with the weights of seed 0."""
    newest = engine._weights[1]
    engine.push(weights(model[1], 0), newest + 1)
    return engine


def requests(model, count, tokens=12, length=40, first=0):
    generator = np.random.default_rng(first)
    prompts = generator.integers(4, 200, (count, length)).tolist()
    return [
        Request(f"s{first + i}", prompt, Sampling(max_tokens=tokens), seed=first + i)
        for i, prompt in enumerate(prompts)
    ]


def ask(engine, asked):
    async def everything():
        return await asyncio.gather(*map(engine.generate, asked))

    return asyncio.run(everything())


def difference(model, params, request, completion):
    """How far its log-probs are from ours."""
    text = [*request.prompt, *completion.tokens.tolist()]
    expected = logprobs_of(model[1], params, text)[len(request.prompt) - 1 :]
    return float(np.abs(expected - completion.logprobs).max())


def test_log_probs_are_those_of_our_decoder(fresh, model):
    asked = requests(model, 6)
    params = weights(model[1], 0)
    for request, completion in zip(asked, ask(fresh, asked), strict=True):
        assert difference(model, params, request, completion) < 1e-4
        assert 1 <= len(completion.tokens) <= 12
        assert completion.stopped == (completion.tokens[-1] == model[2])
        assert len(completion.tokens) == 12 or completion.stopped


def test_responses_end_with_the_token_that_ends_them(fresh, model):
    """As the JAX engine's do: that token is part of what is learnt."""
    completions = ask(fresh, requests(model, 16, tokens=300, length=20, first=50))
    ended = [c for c in completions if c.stopped]
    assert ended
    assert all(c.tokens[-1] == model[2] for c in ended)


def test_a_seed_decides_what_is_sampled(fresh, model):
    (request,) = requests(model, 1)
    again = dataclasses.replace(request, session="other")
    other = dataclasses.replace(request, session="third", seed=99)
    first, second, third = ask(fresh, [request, again, other])
    np.testing.assert_array_equal(first.tokens, second.tokens)
    assert first.tokens.tolist() != third.tokens.tolist()


def test_greedy_takes_what_is_likeliest(fresh, model):
    (request,) = requests(model, 1)
    request = dataclasses.replace(request, sampling=Sampling(0.0, 1.0, 5))
    (completion,) = ask(fresh, [request])
    params = weights(model[1], 0)
    assert difference(model, params, request, completion) < 1e-4
    for token in range(0, model[1].vocab_size, 37):
        text = [*request.prompt, token]
        assert logprobs_of(model[1], params, text)[-1] <= completion.logprobs[0] + 1e-5


def test_a_push_changes_what_is_computed_also_behind_cached_prefixes(fresh, model):
    (request,) = requests(model, 1, length=300)  # more than a block of the cache
    for seed in (1, 0, 2):
        version = fresh._weights[1] + 1
        fresh.push(weights(model[1], seed), version)
        (completion,) = ask(fresh, [request])
        assert completion.version == version
        params = weights(model[1], seed)
        assert difference(model, params, request, completion) < 1e-4


def test_requests_in_flight_end_on_the_weights_that_they_began_with(fresh, model):
    asked = requests(model, 4, tokens=450)
    before = fresh._weights[1]
    completions = []
    thread = threading.Thread(target=lambda: completions.extend(ask(fresh, asked)))
    thread.start()
    time.sleep(1.0)
    fresh.push(weights(model[1], 1), before + 1)
    thread.join()
    params = {before: weights(model[1], 0), before + 1: weights(model[1], 1)}
    for request, completion in zip(asked, completions, strict=True):
        own = params[completion.version]
        assert difference(model, own, request, completion) < 1e-4
    assert before in {completion.version for completion in completions}


@pytest.mark.parametrize("how", ["missing", "surplus", "shape", "cut", "gone"])
def test_a_bad_push_leaves_the_old_policy_serving(fresh, model, monkeypatch, how):
    def damaged(directory, config, params, **options):
        if how == "gone":
            directory.mkdir()
            return
        if how == "shape":
            config = dataclasses.replace(config, intermediate_size=192)
            params = weights(config, 1)
        if how in ("missing", "surplus"):
            layers = 1 if how == "missing" else 3
            config = dataclasses.replace(config, num_hidden_layers=layers)
            params = weights(config, 1)
        save(directory, config, params, **options)
        if how == "cut":
            path = directory / "model.safetensors"
            path.write_bytes(path.read_bytes()[:-100])

    version = fresh._weights[1]
    monkeypatch.setattr(vllm_files, "save", damaged)
    with pytest.raises(RuntimeError, match="does not take version"):
        fresh.push(weights(model[1], 1), version + 1)
    monkeypatch.undo()
    (request,) = requests(model, 1)
    (completion,) = ask(fresh, [request])
    assert completion.version == version
    params = weights(model[1], 0)
    assert difference(model, params, request, completion) < 1e-4
    fresh.push(weights(model[1], 1), version + 2)
    (completion,) = ask(fresh, [request])
    params = weights(model[1], 1)
    assert difference(model, params, request, completion) < 1e-4


def test_weights_that_compute_something_else_are_noticed(fresh, model, monkeypatch):
    other = weights(model[1], 1)

    def wrong(directory, config, params, **options):
        save(directory, config, other, **options)

    monkeypatch.setattr(vllm_files, "save", wrong)
    with pytest.raises(RuntimeError, match=r"log-probs are up to .* off the trainer's"):
        fresh.push(weights(model[1], 0), fresh._weights[1] + 1)


def test_no_room_for_weights_is_said_before_anything_is_sent(fresh, model, monkeypatch):
    version = fresh._weights[1]
    nothing = vllm_files.shutil.disk_usage("/")._replace(free=10)
    monkeypatch.setattr(vllm_files.shutil, "disk_usage", lambda _: nothing)
    with pytest.raises(OSError, match=r"has 10 bytes free, but weights take"):
        fresh.push(weights(model[1], 1), version + 1)
    monkeypatch.undo()
    (completion,) = ask(fresh, requests(model, 1))
    assert completion.version == version


def test_a_request_that_is_refused_is_not_asked_again(fresh, model):
    retried = fresh.counters["retried"]
    (request,) = requests(model, 1, length=600)  # longer than the context
    with pytest.raises(RuntimeError, match="gave no answer at attempt 1"):
        ask(fresh, [request])
    assert fresh.counters["retried"] == retried


@pytest.mark.parametrize("signal_", [signal.SIGKILL, signal.SIGSTOP])
def test_a_server_that_ends_or_hangs_is_replaced_and_nothing_is_lost(
    fresh, model, signal_
):
    version = fresh._weights[1] + 1
    fresh.push(weights(model[1], 1), version)
    asked = requests(model, 4, tokens=400)
    expected = ask(fresh, asked)
    restarted = fresh.counters["restarted"]
    completions = []
    thread = threading.Thread(target=lambda: completions.extend(ask(fresh, asked)))
    thread.start()
    time.sleep(0.2)
    os.killpg(fresh._replicas[0].server.pid, signal_)
    thread.join()
    assert fresh.counters["restarted"] == restarted + 1
    for completion, wanted in zip(completions, expected, strict=True):
        np.testing.assert_array_equal(completion.tokens, wanted.tokens)
        assert completion.version == version


def test_another_model_at_an_address_is_refused(engine, model, tmp_path):
    """Somebody else's server: it has other shapes than our policy."""
    url = engine._replicas[0].api.url
    other = dataclasses.replace(model[1], intermediate_size=192)
    with pytest.raises(RuntimeError, match=r"does not take version|off the trainer's"):
        start(None, (model[0], other, model[2]), tmp_path, servers=[url])
    (completion,) = ask(engine, requests(model, 1))
    assert len(completion.tokens)


def test_a_server_that_cannot_start_shows_the_end_of_its_log(
    executable, model, tmp_path
):
    broken = tmp_path / "model"
    broken.mkdir()
    (broken / "config.json").write_text("{}")
    with pytest.raises(RuntimeError, match=r"ended after \d+ s[^$]*the end of"):
        start(executable, (broken, *model[1:]), tmp_path)


@pytest.mark.skipif(
    importlib.util.find_spec("alfworld") is None,
    reason="needs the extra alfworld: pip install '.[alfworld]'",
)
def test_training_with_vllm_is_training_with_our_engine(executable, tmp_path):
    """Greedily, since the two draw differently."""
    policy = save_random_policy(tmp_path / "policy")
    runs = {
        "jax": (),
        "vllm": (
            "--config.engine.name=vllm",
            f"--config.engine.vllm.executable={executable}",
            "--config.engine.vllm.memory=0",
            f"--config.engine.vllm.arguments={CPU_ARGUMENTS!r}",
            "--config.engine.vllm.tolerance=1e-4",
        ),
    }
    for name, changes in runs.items():
        same = ("--config.rollout.temperature=0.0", "--config.num_steps=3")
        done = start_program(
            *command(tmp_path / name, policy, *same, *changes), env=os.environ | ON_CPU
        )
        assert done.returncode == 0, done.stderr
    assert written(tmp_path / "vllm") == written(tmp_path / "jax")
    for ours, theirs in zip(
        *(deterministic(tmp_path / name) for name in runs), strict=True
    ):
        assert ours.pop("phase") == theirs.pop("phase")
        assert ours == pytest.approx(theirs, rel=1e-4, abs=1e-4)


def test_servers_end_with_their_trainer_even_by_kill_9(executable, model, tmp_path):
    program = f"""
import time
from pathlib import Path
from reskill_jax.rollout.vllm_server import Server, ServerOptions
options = ServerOptions({executable!r}, Path({str(model[0])!r}), "float32", 512,
                        memory=0, arguments={CPU_ARGUMENTS!r}, environment={ON_CPU!r})
server = Server(options, Path({str(tmp_path / "s")!r}))
print(server.pid, flush=True)
time.sleep(600)
"""
    trainer = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True
    )
    pid = int(trainer.stdout.readline())
    time.sleep(5)
    os.kill(pid, 0)  # it is there
    trainer.kill()
    trainer.wait()
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            os.killpg(pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.2)
    pytest.fail("the server outlived its trainer")
