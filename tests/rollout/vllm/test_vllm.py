"""A real vLLM server beside us: parity, pushes, and everything that goes wrong."""

import asyncio
import dataclasses
import importlib.util
import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from programs import (
    TWO_DEVICES,
    command,
    deterministic,
    group_ends,
    run_two,
    save_random_policy,
    written,
)
from programs import start as start_program
from vllm_cases import (
    CPU_ARGUMENTS,
    ON_CPU,
    ask,
    difference,
    logprobs_of,
    requests,
    start,
    weights,
)

from reskill_jax.policy.weights import save
from reskill_jax.rollout.engine import Sampling
from reskill_jax.rollout.vllm import files_transfer as vllm_files

# A server takes half a minute to start, and installing it some minutes, once.
pytestmark = [pytest.mark.vllm, pytest.mark.slow, pytest.mark.timeout(1800)]

needs_alfworld = pytest.mark.skipif(
    importlib.util.find_spec("alfworld") is None,
    reason="needs the extra alfworld: pip install '.[alfworld]'",
)
GREEDILY = "--config.rollout.temperature=0.0"


def with_vllm(executable):
    return (
        "--config.engine.name=vllm",
        f"--config.engine.vllm.executable={executable}",
        "--config.engine.vllm.gpu_memory_utilization=0",
        f"--config.engine.vllm.arguments={CPU_ARGUMENTS!r}",
        "--config.engine.vllm.logprob_tolerance=1e-4",
    )


def assert_same_run(run, other):
    assert written(run) == written(other)
    for ours, theirs in zip(deterministic(run), deterministic(other), strict=True):
        for key in ("phase", "panels"):
            assert ours.pop(key, None) == theirs.pop(key, None)
        for split in ("valid_seen", "valid_unseen"):
            key = f"{split}/batch_invariant"
            assert (ours.pop(key, 0), theirs.pop(key, 1)) == (0, 1)
        assert ours == pytest.approx(theirs, rel=1e-4, abs=1e-4)


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


def test_any_token_that_we_know_ends_a_response_and_no_other(fresh, model, monkeypatch):
    asked = requests(model, 8, tokens=200, length=20, first=80)
    long = ask(fresh, asked)
    listed = set(range(150, 160))  # in the server's generation_config.json
    assert any(listed & set(c.tokens.tolist()[:-1]) for c in long)
    monkeypatch.setattr(fresh, "_eos_ids", (model[2], *listed))
    for before, after in zip(long, ask(fresh, asked), strict=True):
        ends = [n for n, token in enumerate(before.tokens) if token in listed]
        length = ends[0] + 1 if ends else len(before.tokens)
        assert after.tokens.tolist() == before.tokens[:length].tolist()
        assert after.stopped == (before.stopped or bool(ends))


def test_log_probs_are_those_at_the_sampling_temperature(fresh, model):
    params = weights(model[1], 0)
    for request in requests(model, 3):
        sampling = Sampling(temperature=0.5, max_tokens=12)
        cold = dataclasses.replace(request, sampling=sampling)
        (completion,) = ask(fresh, [cold])
        text = [*request.prompt, *completion.tokens.tolist()]
        expected = logprobs_of(model[1], params, text, temperature=0.5)
        expected = expected[len(request.prompt) - 1 :]
        np.testing.assert_allclose(completion.logprobs, expected, atol=1e-4)
    api = fresh._replicas[0].api
    future = asyncio.run_coroutine_threadsafe(api.tempers_logprobs(), fresh._loop)
    assert future.result()


def test_a_cut_vocabulary_is_refused_since_log_probs_would_be_too_high(fresh, model):
    (request,) = requests(model, 1)
    nucleus = dataclasses.replace(request, sampling=Sampling(top_p=0.5))
    with pytest.raises(ValueError, match=r"^top_p=0\.5: vLLM's log-probs would be"):
        ask(fresh, [nucleus])


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


@pytest.mark.parametrize("how", ["missing", "surplus", "shape", "cut", "empty"])
def test_a_bad_push_leaves_the_old_policy_serving(fresh, model, monkeypatch, how):
    def damaged(directory, config, params, **options):
        if how == "empty":
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
    with pytest.raises(RuntimeError, match=r"log-probs differ from the trainer's by"):
        fresh.push(weights(model[1], 0), fresh._weights[1] + 1)


def test_missing_space_for_weights_is_an_error_before_anything_is_sent(
    fresh, model, monkeypatch
):
    version = fresh._weights[1]
    nothing = vllm_files.shutil.disk_usage("/")._replace(free=10)
    monkeypatch.setattr(vllm_files.shutil, "disk_usage", lambda _: nothing)
    with pytest.raises(OSError, match=r"has 10 bytes free, but the weights take"):
        fresh.push(weights(model[1], 1), version + 1)
    monkeypatch.undo()
    (completion,) = ask(fresh, requests(model, 1))
    assert completion.version == version


def test_a_request_that_is_refused_is_not_asked_again(fresh, model):
    retried = fresh.counters["retried"]
    (request,) = requests(model, 1, length=600)  # longer than the context
    with pytest.raises(RuntimeError, match="attempt 1 to sample a response"):
        ask(fresh, [request])
    assert fresh.counters["retried"] == retried


@pytest.mark.parametrize("signal_", [signal.SIGKILL, signal.SIGSTOP])
def test_a_server_that_ends_or_hangs_is_replaced_and_nothing_is_lost(
    fresh, model, signal_
):
    version = fresh._weights[1] + 1
    fresh.push(weights(model[1], 1), version)
    asked = requests(model, 4, tokens=150)
    expected = ask(fresh, asked)
    restarted = fresh.counters["restarted"]
    completions = []
    thread = threading.Thread(target=lambda: completions.extend(ask(fresh, asked)))
    # A stopped server cannot answer before it ends, however slow this test is.
    os.killpg(fresh._replicas[0].server.pid, signal.SIGSTOP)
    thread.start()
    time.sleep(1.0)
    os.killpg(fresh._replicas[0].server.pid, signal_)
    thread.join()
    assert fresh.counters["restarted"] == restarted + 1
    for completion, wanted in zip(completions, expected, strict=True):
        np.testing.assert_array_equal(completion.tokens, wanted.tokens)
        assert completion.version == version


def test_another_model_at_an_address_is_refused(engine, model, tmp_path):
    """It was started elsewhere and has other shapes than our policy."""
    url = engine._replicas[0].api.url
    other = dataclasses.replace(model[1], intermediate_size=192)
    with pytest.raises(
        RuntimeError, match=r"does not take version|differ from the trainer's"
    ):
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


@needs_alfworld
@pytest.mark.parametrize("overlap", [0, 1])
def test_training_with_vllm_is_training_with_our_engine(executable, tmp_path, overlap):
    """Greedily, since the two draw differently."""
    policy = save_random_policy(tmp_path / "policy")
    for name, changes in (("jax", ()), ("vllm", with_vllm(executable))):
        same = (GREEDILY, "--config.num_steps=3", f"--config.rollout.overlap={overlap}")
        done = start_program(
            *command(tmp_path / name, policy, *same, *changes), env=os.environ | ON_CPU
        )
        assert done.returncode == 0, done.stderr
    assert_same_run(tmp_path / "vllm", tmp_path / "jax")


@needs_alfworld
def test_two_processes_with_servers_of_their_own_are_one_run(
    executable, tmp_path, monkeypatch
):
    """Parameters are split over both, and every server gets all of them."""
    for name, value in ON_CPU.items():
        monkeypatch.setenv(name, value)
    policy = save_random_policy(tmp_path / "policy")
    same = (GREEDILY, "--config.mesh.fsdp=2", "--config.num_steps=2")
    done = start_program(
        *command(tmp_path / "jax", policy, *same), env=os.environ | TWO_DEVICES
    )
    assert done.returncode == 0, done.stderr
    root = tmp_path / "weights"
    vllm = (*with_vllm(executable), f"--config.engine.vllm.weights_dir={root}")
    run_two(tmp_path / "vllm", policy, tmp_path, *same, *vllm)
    assert_same_run(tmp_path / "vllm", tmp_path / "jax")
    assert list(root.iterdir()) == []


def test_servers_end_with_their_trainer_even_by_kill_9(executable, model, tmp_path):
    program = f"""
import time
from pathlib import Path
from reskill_jax.rollout.vllm.server import Server, ServerOptions
options = ServerOptions({executable!r}, Path({str(model[0])!r}), "float32", 512,
                        gpu_memory_utilization=0,
                        arguments={CPU_ARGUMENTS!r}, environment={ON_CPU!r})
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
    assert group_ends(pid), "the server outlived its trainer"
