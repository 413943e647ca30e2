"""A real vLLM server that was started elsewhere, without our plugin."""

import dataclasses
from contextlib import closing

import pytest
from vllm_cases import ask, difference, requests, serve, start, weights

from reskill_jax.rollout.engine import Sampling
from reskill_jax.rollout.vllm import files_transfer as vllm_files
from reskill_jax.rollout.vllm import server as vllm_server

pytestmark = [pytest.mark.vllm, pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.fixture
def url(executable, model, monkeypatch):
    """Where such a server listens."""

    def command(options, socket):
        words = ours(options, socket)
        for flag in (
            "--worker-extension-cls",
            "--weight-transfer-config",
            "--logprobs-mode",
        ):
            at = words.index(flag)
            del words[at : at + 2]
        return words

    ours = vllm_server.command
    monkeypatch.setattr(vllm_server, "command", command)
    server = serve(executable, model)
    yield server.url
    server.stop()


def test_pushes_count_until_a_reload_fails(
    url, executable, model, tmp_path, monkeypatch
):
    """In one test, since it takes a server of its own."""
    with closing(start(executable, model, tmp_path, servers=[url])) as engine:
        (request,) = requests(model, 1, length=300)  # more than a block of the cache
        cold = dataclasses.replace(request, sampling=Sampling(temperature=0.5))
        with pytest.raises(
            RuntimeError, match=r"gives log-probs at temperature 1, not"
        ):
            ask(engine, [cold])
        for version, seed in enumerate((0, 1, 0, 2)):
            own = weights(model[1], seed)
            if version:  # the engine begins with one
                engine.push(own, version)
            (completion,) = ask(engine, [request])
            assert completion.version == version
            assert difference(model, own, request, completion) < 1e-4

        def damage(directory, manifest):
            (directory / "model.safetensors").write_bytes(b"no weights")

        monkeypatch.setattr(vllm_files, "check", damage)
        with pytest.raises(
            RuntimeError, match=r"/collective_rpc answered 500"
        ) as error:
            engine.push(weights(model[1], 1), 4)
        assert "version '4 (partly)'" in str(error.value)
        assert "restart that server" in str(error.value)
