"""A real vLLM server: its prefix cache across versions, its sleep, merged adapters."""

import asyncio
import dataclasses

import jax
import numpy as np
import pytest
from vllm_cases import CPU_ARGUMENTS, ask, difference, requests, start, weights

from reskill_jax.policy.lora import TARGETS, Adapted, init_adapters, merge
from reskill_jax.rollout.vllm import server as vllm_server
from reskill_jax.rollout.vllm.api import Api

pytestmark = [pytest.mark.vllm, pytest.mark.slow, pytest.mark.timeout(1800)]


def run(engine, work):
    """Run a coroutine where the engine's connections are."""
    return asyncio.run_coroutine_threadsafe(work, engine._loop).result()


@pytest.fixture
def kept_cache(monkeypatch):
    """Nothing empties the prefix cache any more."""
    post = Api._post

    async def without_resets(self, route, *arguments, **options):
        if route == "/reset_prefix_cache":
            return {"success": True}
        if route.startswith("/pause"):
            route += "&clear_cache=false"
        return await post(self, route, *arguments, **options)

    monkeypatch.setattr(Api, "_post", without_resets)


@pytest.mark.parametrize("salted", [True, False])
def test_old_keys_and_values_never_serve_new_weights(
    fresh, model, kept_cache, monkeypatch, salted
):
    """By the salt alone; and without it they would."""
    if not salted:
        monkeypatch.setattr(fresh, "_cache_salt", lambda: "always the same")
    (request,) = requests(model, 1, length=300, first=700 + salted)
    ask(fresh, [request])  # blocks of the weights of seed 0
    fresh.push(weights(model[1], 1), fresh._weights[1] + 1)
    (completion,) = ask(fresh, [request])
    apart = difference(model, weights(model[1], 1), request, completion)
    assert (apart < 1e-4) == salted, apart
    fresh.release(request.session)


def test_requests_of_one_version_share_a_prefix(fresh, model):
    """Salts keep versions apart, not requests."""

    def hits():
        async def ask_server():
            answer = await fresh._replicas[0].api._client.get("/metrics")
            return answer.text

        lines = run(fresh, ask_server()).splitlines()
        name = "vllm:prefix_cache_hits_total"
        return sum(float(line.split()[-1]) for line in lines if line.startswith(name))

    (request,) = requests(model, 1, length=300, first=800)
    ask(fresh, [request])
    before = hits()
    ask(fresh, [dataclasses.replace(request, seed=1)])
    assert hits() - before >= 256  # two blocks of 128 tokens
    fresh.release(request.session)


def test_a_server_sleeps_until_a_push_wakes_it(fresh, model, monkeypatch):
    """CPUs have no memory to give back, but the server keeps the same account."""
    (replica,) = fresh._replicas
    (request,) = requests(model, 1, length=300, first=900)
    ask(fresh, [request])
    monkeypatch.setattr(fresh, "_colocate", True)
    monkeypatch.setattr(replica.api, "_sleeps", True)
    monkeypatch.setattr(replica, "sleeps", True)  # see the next test
    for seed in (1, 2):
        fresh.sleep()
        run(fresh, replica.api._require_sleeping(True))
        version = fresh._weights[1] + 1
        fresh.push(weights(model[1], seed), version)
        (completion,) = ask(fresh, [request])
        assert completion.version == version
        own = weights(model[1], seed)
        assert difference(model, own, request, completion) < 1e-4
    fresh.release(request.session)


def test_keys_and_values_stay_away_until_the_weights_are_there(fresh):
    """Between the two wake-ups the server still sleeps."""
    api = fresh._replicas[0].api

    async def wake(tag):
        return (await api._post(f"/wake_up?tags={tag}"))["status"]

    run(fresh, api.sleep())
    assert run(fresh, wake("weights")) == "sleeping"
    assert run(fresh, wake("kv_cache")) == "awake"
    run(fresh, api._require_sleeping(False))


def test_a_server_without_sleep_mode_is_found_out(fresh, model, tmp_path):
    """It answers as if it slept: only its configuration tells."""
    url = fresh.urls[0]
    with pytest.raises(RuntimeError, match=r"without sleep mode.*--enable-sleep-mode"):
        start(None, model, tmp_path, servers=[url], colocate=True)
    (request,) = requests(model, 1)
    assert len(ask(fresh, [request])[0].tokens)


def test_a_server_of_ours_is_started_with_its_sleep_mode(executable, model, tmp_path):
    """Which vLLM refuses on CPUs, at once."""
    options = dataclasses.replace(
        vllm_server.ServerOptions(executable, model[0], "float32", 512),
        gpu_memory_utilization=0,
        sleep_mode=True,
        arguments=CPU_ARGUMENTS,
    )
    server = vllm_server.Server(options, tmp_path / "s")
    with pytest.raises(RuntimeError, match="Sleep mode is not supported on current"):
        start(None, model, tmp_path, servers=[server], colocate=True)
    assert server.ended()


def test_merged_adapters_compute_in_the_server_what_they_do_in_the_trainer(
    fresh, model
):
    """Its log-probs are of the merged weights, the trainer's of base and adapters."""
    config = model[1]
    base = weights(config, 1)
    adapters = init_adapters(base, tuple(TARGETS), 4, jax.random.key(3))
    generator = np.random.default_rng(4)
    adapters = jax.tree.map(
        lambda x: np.float32(generator.normal(0, 0.1, x.shape)), adapters
    )
    adapted = Adapted(base, adapters, 2.0)
    asked = requests(model, 4, first=1000)
    fresh.push(adapted, version := fresh._weights[1] + 1)
    for request, completion in zip(asked, ask(fresh, asked), strict=True):
        assert completion.version == version
        assert difference(model, adapted, request, completion) < 1e-4
        assert difference(model, merge(adapted), request, completion) < 1e-4
        # It is the adapters that are compared: without them it is another policy.
        assert difference(model, base, request, completion) > 0.1
        fresh.release(request.session)
