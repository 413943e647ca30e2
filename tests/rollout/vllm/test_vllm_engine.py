"""Servers that are not what they should be, played by a small one of our own."""

import asyncio
import dataclasses
import fcntl
import importlib.util
import logging
import platform
import resource
import signal
import threading
from contextlib import closing
from pathlib import Path

import jax
import numpy as np
import pytest
from programs import save_random_policy, start_two

pytest.importorskip("httpx", reason="needs the extra vllm: pip install '.[vllm]'")

from fake_vllm import FINISH, INIT, RELOAD, UPDATE, FakeVllm

from reskill_jax.policy.decoder import init
from reskill_jax.policy.decoder_config import DecoderConfig
from reskill_jax.rollout.engine import Request, Sampling
from reskill_jax.rollout.vllm import files_transfer as vllm_files
from reskill_jax.rollout.vllm.api import _ROUTES
from reskill_jax.rollout.vllm.engine import VllmEngine
from reskill_jax.rollout.vllm.files_transfer import FilesTransfer

CONFIG = DecoderConfig(
    vocab_size=64,
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=1,
    head_dim=16,
)


def weights(seed=0):
    return init(CONFIG, jax.random.key(seed))


def attach(server, tmp_path, expected=-1.0, ours=False, colocate=False, **changes):
    """Use a server, by default another's; the trainer computes `expected`."""
    return VllmEngine(
        dataclasses.replace(CONFIG, **changes),
        weights(),
        servers=[server if ours else server.url],
        transfer=FilesTransfer(CONFIG, tmp_path / "weights"),
        eos_ids=(1,),
        score=lambda params, tokens: np.full(len(tokens) - 1, expected, np.float32),
        logprob_tolerance=1e-4,
        start_timeout_s=5.0,
        colocate=colocate,
    )


def ask(engine, **sampling):
    request = Request("s", [1, 2, 3], Sampling(max_tokens=1, **sampling), seed=0)
    return asyncio.run(engine.generate(request))


def test_a_server_that_is_one_is_used(tmp_path):
    with FakeVllm() as server:
        engine = attach(server, tmp_path)
        assert ask(engine).version == 0
        engine.push(weights(1), 1)
        assert ask(engine).version == 1
        engine.close()
    assert server.asked.count(FINISH) == 2
    assert list(tmp_path.iterdir()) == []


def test_weights_of_a_process_that_was_killed_are_removed(tmp_path):
    for name in ("killed", "elsewhere", "busy", "foreign"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model").write_text("weights")
    for name in ("killed", "busy"):
        (tmp_path / name / "reskill.lock").write_text(platform.node())
    (tmp_path / "elsewhere" / "reskill.lock").write_text("another host")
    transfer = FilesTransfer(CONFIG, tmp_path / "mine")
    with (tmp_path / "busy" / "reskill.lock").open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        transfer.prepare(weights(1), 1)
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"elsewhere", "busy", "foreign", "mine"}
    transfer.close()
    assert not (tmp_path / "mine").exists()


def response(tokens=(7,), logprobs=(-1.0,), reason="length", version="0"):
    content = [{"logprob": logprob} for logprob in logprobs]
    choice = {"token_ids": tokens, "logprobs": {"content": content}}
    choice |= {"finish_reason": reason, "weight_versions": [{"version": version}]}
    return {"choices": [choice]}


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (response([7, 7], [-1.0, -1.0]), "2 tokens and 2 log-probs, of 1 to 1"),
        (response([], []), "0 tokens and 0 log-probs"),
        (response([7], [-1.0, -1.0]), "1 tokens and 2 log-probs"),
        (response([64]), "not all are integers from 0 to 63"),
        (response([-3]), "not all are integers"),
        (response([7.5]), "not all are integers"),
        (response([True]), "not all are integers"),
        (response("7"), "not all are integers"),
        (response([[7]]), "not all are integers"),
        (response([2**40]), "not all are integers"),
        (response(logprobs=[0.5]), "log-probs: not all are finite numbers"),
        (response(logprobs=[None]), "log-probs: not all are finite numbers"),
        (response(logprobs=[-1e300]), "log-probs: not all are finite numbers"),
        (response(logprobs=[-(10**400)]), "log-probs: not all are finite numbers"),
        (response(reason="stop"), "stop.*, last token 7"),
        (response(reason="abort"), "abort.*, last token 7"),
        (response(version="none"), "invalid literal for int"),
        (b"[" * 200_000, "not JSON"),
    ],
)
def test_a_response_that_cannot_be_one_is_refused(tmp_path, answer, message):
    with FakeVllm() as server, closing(attach(server, tmp_path)) as engine:
        server.changes["/inference/v1/generate"] = response([1], reason="stop")
        assert ask(engine).stopped
        server.changes["/inference/v1/generate"] = answer
        with pytest.raises(RuntimeError, match=message):
            ask(engine)
        assert engine.counters["retried"] == 2


@pytest.mark.parametrize("logprob", [0.5, None, "-1", -(10**400)])
def test_log_probs_of_the_prompt_that_cannot_be_some_are_refused(tmp_path, logprob):
    with FakeVllm() as server:
        server.logprob = logprob
        with pytest.raises(RuntimeError, match="log-probs: not all are finite numbers"):
            attach(server, tmp_path)


def test_responses_are_drawn_from_the_whole_vocabulary(tmp_path):
    with FakeVllm() as server, closing(attach(server, tmp_path)) as engine:
        with pytest.raises(ValueError, match=r"^top_p=0\.9: vLLM's log-probs would be"):
            ask(engine, top_p=0.9)
        assert not server.sampling


def test_a_server_without_tempered_logprobs_is_noticed_where_they_are_needed(tmp_path):
    """Of the only token that can be drawn, they are 0 where the mode is right."""
    with FakeVllm() as server, closing(attach(server, tmp_path)) as engine:
        ask(engine, temperature=1.0)
        ask(engine, temperature=0.0)
        with pytest.raises(RuntimeError, match=r"not at 0\.7: start it with"):
            ask(engine, temperature=0.7)
        server.logprob = 0.0
        ask(engine, temperature=0.7)
        server.logprob = -1.0  # asked once
        ask(engine, temperature=0.7)


def test_a_response_ends_with_the_tokens_that_we_know_alone(tmp_path):
    with FakeVllm() as server, closing(attach(server, tmp_path)) as engine:
        ask(engine)
        sampling = server.sampling[-1]
    assert sampling["stop_token_ids"] == [1]
    assert sampling["ignore_eos"]
    assert sampling["repetition_penalty"] == 1.0


NO_DEV_MODE = {"paths": {"/v1/completions": {}, "/inference/v1/generate": {}}}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"health": 404}, r"http://\S+ is not a vLLM server: does another program"),
        ({"weight_info": b"<html>"}, r"does not take version 0 .* not JSON: '<html>'"),
        (
            {"weight_info": 404, "openapi.json": NO_DEV_MODE},
            r"vLLM 0\.29\.0 lacks .*/pause.*: start it with VLLM_SERVER_DEV_MODE=1",
        ),
        (
            {"openapi.json": {"paths": dict.fromkeys(_ROUTES[1:])}},
            r"lacks /inference/v1/generate: start it with .* --enable-scale-out",
        ),
        ({"start_weight_update": 404}, "/start_weight_update answered 404"),
        (
            {"weight_info": {"weight_version": "12"}},
            "version '12', not '0': does another run push to this",
        ),
        ({"reset_prefix_cache": {"success": False}}, r"/reset_prefix_cache: .*False"),
    ],
    ids=["foreign", "pages", "no dev mode", "old", "newer", "shared", "busy"],
)
def test_a_server_that_is_none_for_us_is_refused(tmp_path, changes, message):
    with FakeVllm() as server:
        server.changes = {f"/{route}": answer for route, answer in changes.items()}
        with pytest.raises(RuntimeError, match=message):
            attach(server, tmp_path)
    assert ("/pause" in server.asked) == ("/resume" in server.asked)
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_keeps_its_own_weights_is_noticed(tmp_path):
    """It takes updates, says that it serves them, and computes what it did before."""
    with FakeVllm() as server:
        engine = attach(server, tmp_path)
        server.logprob = -1.001
        with pytest.raises(
            RuntimeError, match=r"'theirs' version 1, but its log-probs differ"
        ):
            engine.push(weights(1), 1)
        engine.close()


@pytest.mark.parametrize("tied", [True, False])
def test_a_tied_output_layer_is_named_as_a_reason(tmp_path, tied):
    """On CPUs, vLLM's own reload leaves a copy of it as it was."""
    with (
        FakeVllm(plugin=False) as server,
        pytest.raises(RuntimeError, match="differ from the trainer's") as error,
    ):
        attach(server, tmp_path, expected=-1.001, tie_word_embeddings=tied)
    assert ("start the server with the plugin" in str(error.value)) == tied


def test_weights_that_cannot_be_written_whole_are_not_sent(tmp_path):
    with FakeVllm() as server:
        engine = attach(server, tmp_path)
        asked = len(server.asked)
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))  # less than weights
        try:
            with pytest.raises(
                OSError, match=r"^weights_dir='.*': .* could not be written"
            ):
                engine.push(weights(1), 1)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert len(server.asked) == asked
        assert [path.name for path in (tmp_path / "weights").glob("v*")] == ["v0"]
        assert ask(engine).version == 0
        engine.push(weights(1), 1)
        assert ask(engine).version == 1
        engine.close()


def test_a_refused_push_leaves_the_old_version_and_the_next_one_counts(tmp_path):
    with FakeVllm() as server:
        engine = attach(server, tmp_path)
        server.changes = {"/update_weights": 500}
        with pytest.raises(
            RuntimeError, match=r"does not take version 1 .* answered 500"
        ):
            engine.push(weights(1), 1)
        assert server.asked[-1] == "/resume"
        assert ask(engine).version == 0
        server.changes = {}
        engine.push(weights(1), 2)
        assert ask(engine).version == 2
        assert [path.name for path in (tmp_path / "weights").glob("v*")] == ["v2"]
        engine.close()


class Interrupted(BaseException):
    """Comes from a signal, as KeyboardInterrupt and TerminatedError do."""


@pytest.mark.parametrize("plugin", [True, False])
def test_a_push_that_is_interrupted_leaves_no_foreign_server_paused(tmp_path, plugin):
    """It would refuse whoever pushes to it next, the resumed run first of all."""

    class Slow(FakeVllm):
        def _answer(self, route, body):
            if engine and route in (UPDATE, RELOAD):
                signal.pthread_kill(main, signal.SIGUSR1)
                assert released.wait(30)
            return super()._answer(route, body)

    def interrupt(*_):
        raise Interrupted

    engine, released = None, threading.Event()
    main = threading.main_thread().ident
    former = signal.signal(signal.SIGUSR1, interrupt)
    try:
        with Slow(plugin=plugin) as server:
            engine = attach(server, tmp_path)
            with pytest.raises(Interrupted):
                engine.push(weights(1), 1)
            threading.Timer(0.1, released.set).start()
            engine.close()
            assert (server.version, server.paused) == ("1", False)
    finally:
        signal.signal(signal.SIGUSR1, former)


def test_a_server_without_our_plugin_reloads_by_itself_and_that_is_said(
    tmp_path, caplog
):
    with FakeVllm(plugin=False) as server, caplog.at_level(logging.WARNING):
        engine = attach(server, tmp_path)
        server.asked.clear()
        engine.push(weights(1), 1)
        assert server.asked == [
            "/weight_info",
            "/weight_info",
            "/pause",
            "/update_weight_version",
            RELOAD,
            "/update_weight_version",
            "/reset_prefix_cache",
            "/resume",
            "/weight_info",
            "/v1/models",
            "/v1/completions",
        ]
        assert [path.name for path in server.reloaded] == ["v0", "v1"]
        assert ask(engine).version == 1
        engine.close()
        again = attach(server, tmp_path)  # it has weights already
        assert ask(again).version == 0
        again.close()
    said = [record.getMessage() for record in caplog.records]
    assert [message.partition(" (")[0] for message in said] == [
        f"{server.url} runs without our plugin"
    ] * 2  # engines


def test_a_server_with_our_plugin_is_never_reloaded_without(tmp_path, caplog):
    with FakeVllm() as server, caplog.at_level(logging.WARNING):
        server.changes = {INIT: 500}
        with pytest.raises(RuntimeError, match=r"not take version 0 .* answered 500"):
            attach(server, tmp_path)
    assert not server.reloaded
    assert not caplog.records


def test_a_reload_that_failed_is_not_built_upon(tmp_path):
    with FakeVllm(plugin=False) as server:
        engine = attach(server, tmp_path)
        server.asked.clear()
        server.changes = {RELOAD: 500}
        message = (
            r"twice: .*_rpc answered 500.* was started elsewhere; .*'1 \(partly\)'"
        )
        with pytest.raises(RuntimeError, match=message):
            engine.push(weights(1), 1)
        assert server.asked.count(RELOAD) == 1
        server.changes = {}
        with pytest.raises(RuntimeError, match=r"failed .*: restart that server"):
            engine.push(weights(2), 2)
        engine.close()
        with pytest.raises(RuntimeError, match="restart that server"):
            attach(server, tmp_path)
        assert "/resume" not in server.asked
        server.restart()
        engine = attach(server, tmp_path)
        assert ask(engine).version == 0
        engine.close()


@pytest.mark.parametrize(
    ("route", "answer"),
    [
        ("/update_weight_version", 500),
        ("/reset_prefix_cache", {"success": False}),
    ],
)
def test_a_server_that_may_have_parts_of_weights_stays_paused(tmp_path, route, answer):
    with FakeVllm(plugin=False) as server:
        engine = attach(server, tmp_path)
        server.asked.clear()
        server.changes = {route: answer}
        with pytest.raises(
            RuntimeError, match="may have incomplete weights of version 1"
        ):
            engine.push(weights(1), 1)
        assert "/resume" not in server.asked
        engine.close()


def test_a_server_of_ours_is_started_again_after_a_reload_that_failed(tmp_path):
    class Healing(FakeVllm):
        def restart(self):
            self.changes = {}
            super().restart()

    with Healing(plugin=False) as server:
        engine = attach(server, tmp_path, ours=True)
        server.changes = {RELOAD: 500}
        engine.push(weights(1), 1)
        assert engine.counters["restarted"] == 1
        assert ask(engine).version == 1
        engine.close()


def test_files_that_a_reload_would_not_survive_are_not_sent(tmp_path, monkeypatch):
    save = vllm_files.save

    def cut(directory, *arguments, **options):
        save(directory, *arguments, **options)
        path = directory / "model.safetensors"
        path.write_bytes(path.read_bytes()[:-1])

    with FakeVllm(plugin=False) as server:
        engine = attach(server, tmp_path)
        server.asked.clear()
        monkeypatch.setattr(vllm_files, "save", cut)
        with pytest.raises(RuntimeError, match=r"version 1 .* is not sent .* damaged"):
            engine.push(weights(1), 1)
        assert server.asked == ["/weight_info"]
        assert ask(engine).version == 0
        monkeypatch.undo()
        engine.push(weights(2), 2)
        assert ask(engine).version == 2
        engine.close()


def test_every_version_has_a_salt_of_its_own_that_no_other_trainer_uses(tmp_path):
    """Blocks of the prefix cache are then of one version, with or without a reset."""
    with FakeVllm() as server:
        for number in range(2):
            with closing(attach(server, tmp_path / f"{number}")) as engine:
                for version in (0, 1):
                    if version:
                        engine.push(weights(1), version)
                    ask(engine)
                    ask(engine)
    first, again, *_ = server.salts
    assert first == again
    assert len(server.salts) == 8
    assert len(set(server.salts)) == 4


WOKEN = [
    "/weight_info",
    "/wake_up weights",
    "/pause",
    "/start_weight_update",
    "/update_weights",
    "/finish_weight_update",
    "/reset_prefix_cache",
    "/wake_up kv_cache",
    "/resume",
    "/is_sleeping",
    "/weight_info",
    "/v1/models",
    "/v1/completions",
]


def test_a_server_on_the_trainers_devices_sleeps_until_a_push_wakes_it(tmp_path):
    """First room for weights, then the weights, then room for keys and values."""
    with (
        FakeVllm(sleep_mode=True) as server,
        closing(attach(server, tmp_path, colocate=True)) as engine,
    ):
        server.asked.clear()
        engine.sleep()
        assert server.asleep == {"weights", "kv_cache"}
        assert server.asked == ["/sleep", "/is_sleeping"]
        server.asked.clear()
        engine.push(weights(1), 1)
        assert server.asked == WOKEN
        assert not server.asleep
        assert ask(engine).version == 1


def test_a_version_that_is_pushed_again_is_still_there_for_a_restart(tmp_path):
    """As the doctor does, to wake servers with the weights that they had."""
    with (
        FakeVllm() as server,
        closing(attach(server, tmp_path, ours=True)) as engine,
    ):
        engine.push(weights(), 0)
        assert [path.name for path in (tmp_path / "weights").glob("v*")] == ["v0"]


def test_a_server_with_devices_of_its_own_stays_awake(tmp_path):
    with FakeVllm() as server, closing(attach(server, tmp_path)) as engine:
        server.asked.clear()
        engine.sleep()
        assert server.asked == []
        engine.push(weights(1), 1)
        assert not [route for route in server.asked if "wake" in route]


@pytest.mark.parametrize(
    ("sleep_mode", "message"),
    [
        (None, r"lacks /sleep, .*: start it with VLLM_SERVER_DEV_MODE=1"),
        (False, "runs without sleep mode, .*: start it with --enable-sleep-mode"),
    ],
)
def test_a_server_that_could_not_sleep_is_refused_at_once(
    tmp_path, sleep_mode, message
):
    """It would answer as if it did; also one that has had weights of others."""
    with FakeVllm(sleep_mode=sleep_mode) as server:
        for version in ("default", "12"):
            server.version = version
            with pytest.raises(RuntimeError, match=message):
                attach(server, tmp_path, colocate=True)
    assert "/sleep" not in server.asked


def test_a_server_that_stays_awake_ends_the_run(tmp_path):
    with (
        FakeVllm(sleep_mode=True) as server,
        closing(attach(server, tmp_path, colocate=True)) as engine,
    ):
        server.changes = {"/is_sleeping": {"is_sleeping": False}}
        with pytest.raises(RuntimeError, match=r"does not sleep: .* should be True"):
            engine.sleep()


def test_a_server_that_ended_in_its_sleep_or_before_is_started_again(tmp_path):
    with (
        FakeVllm(sleep_mode=True) as server,
        closing(attach(server, tmp_path, colocate=True, ours=True)) as engine,
    ):
        for version, sleeps in enumerate((True, False), 1):
            if sleeps:
                engine.sleep()
            server.stop()
            if not sleeps:
                engine.sleep()
            engine.push(weights(version), version)
            assert engine.counters["restarted"] == version
            assert ask(engine).version == version


def test_a_refused_push_leaves_a_server_awake_with_its_old_weights(tmp_path):
    """They were in the host's memory."""
    with (
        FakeVllm(sleep_mode=True) as server,
        closing(attach(server, tmp_path, colocate=True)) as engine,
    ):
        engine.sleep()
        server.changes = {"/update_weights": 500}
        with pytest.raises(RuntimeError, match="does not take version 1"):
            engine.push(weights(1), 1)
        assert not server.asleep
        assert ask(engine).version == 0


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("alfworld") is None,
    reason="needs the extra alfworld: pip install '.[alfworld]'",
)
def test_a_push_that_fails_in_one_process_ends_the_other(tmp_path):
    """Both have a server, which gets all weights, though each has a part of them."""

    class Reading(FakeVllm):
        """Keeps the first weights; if it is stubborn, it takes no others."""

        first, stubborn = None, False

        def _answer(self, route, body):
            if route == "/update_weights" and self.first is None:
                path = Path(body["update_info"]["path"])
                self.first = (path / "model.safetensors").read_bytes()
                self.changes = {route: 500} if self.stubborn else {}
            return super()._answer(route, body)

    policy = save_random_policy(tmp_path / "policy")
    with Reading() as good, Reading() as bad:
        bad.stubborn = True
        changes = (
            "--config.engine.name=vllm",
            f"--config.engine.vllm.urls={(good.url, bad.url)!r}",
            f"--config.engine.vllm.weights_dir={tmp_path / 'weights'}",
            "--config.engine.vllm.logprob_tolerance=100",
        )
        processes = start_two(tmp_path / "w", policy, tmp_path, (changes, changes))
        assert all(process.wait(timeout=480) != 0 for process in processes)
    assert good.first == bad.first == (policy / "model.safetensors").read_bytes()
    told = [(tmp_path / f"{process}.err").read_text() for process in range(2)]
    assert f"{bad.url} does not take version 1 of the weights" in told[1]
    assert bad.url not in told[0]
    assert (good.version, bad.version) == ("1", "0")
    assert list((tmp_path / "weights").iterdir()) == []
