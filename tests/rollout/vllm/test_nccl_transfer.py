"""Weights by NCCL, against a stand-in for its library and for vLLM's server."""

import dataclasses
import shutil
import subprocess
import threading
import time
from contextlib import ExitStack
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from reskill_jax.policy.decoder import abstract_params
from reskill_jax.policy.decoder_config import DecoderConfig
from reskill_jax.policy.weights import manifest, save
from reskill_jax.rollout.vllm.nccl import Deadline, Group, Nccl, NcclError, find_library

pytest.importorskip("httpx", reason="needs the extra vllm: pip install '.[vllm]'")

from fake_vllm import EMBEDDING, INIT, UPDATE, FakeNcclVllm, score

from reskill_jax.rollout.vllm.engine import VllmEngine
from reskill_jax.rollout.vllm.nccl_transfer import NcclTransfer

COMPILER = shutil.which("cc") or shutil.which("gcc")
pytestmark = pytest.mark.skipif(
    COMPILER is None, reason="needs a C compiler for the stand-in for NCCL"
)
CONFIG = DecoderConfig(
    vocab_size=48,
    hidden_size=16,
    intermediate_size=32,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=8,
    tie_word_embeddings=False,
    attention_bias=True,
    dtype="float32",
)
TENSORS = len(manifest(CONFIG))
START, RESUME = "/start_weight_update", "/resume"


@pytest.fixture(scope="session")
def library(tmp_path_factory):
    """Both libraries in one."""
    path = tmp_path_factory.mktemp("nccl") / "libnccl.so.2"
    source = Path(__file__).parent / "fake_nccl.c"
    flags = ("-shared", "-fPIC", "-O1", "-o", path)
    subprocess.run([COMPILER, *flags, source, "-lpthread"], check=True)
    return path


@pytest.fixture
def calls(library, tmp_path):
    """What was called since: (rank, call, count, type)."""
    log = tmp_path / "calls"
    log.touch()
    fake = Nccl(str(library), 0, str(library))._nccl
    fake.fake_reset(str(log).encode())

    def read(rank=0):
        lines = [line.split() for line in log.read_text().splitlines()]
        found = [(int(r), name, int(n), int(t)) for r, name, n, t in lines]
        return [call[1:] for call in found if call[0] == rank]

    def fail(name, *, after=0, times=1, result=2):
        fake.fake_fail(name.encode(), after, times, result)

    read.fail = fail
    return read


@pytest.fixture
def serve(library, calls):
    """Start servers."""
    servers = []

    def start(**options):
        servers.append(FakeNcclVllm(library, **options))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


@pytest.fixture
def connect(library):
    """Start engines, by default with servers started elsewhere."""
    resources = ExitStack()

    def start(*servers, config=CONFIG, timeout=30.0, ours=False):
        transfer = NcclTransfer(
            config,
            mesh=None,
            libnccl=str(library),
            libcuda=str(library),
            timeout_s=timeout,
        )
        engine = VllmEngine(
            config,
            weights(0, config),
            servers=[server if ours else server.url for server in servers],
            transfer=transfer,
            eos_ids=(1,),
            score=lambda params, text: score(params["embed"]["embedding"], text),
            logprob_tolerance=1e-3,
            timeout_s=timeout,
        )
        resources.callback(engine.close)
        return engine

    start.close = resources.close
    with resources:
        yield start


def weights(seed, config=CONFIG):
    """Random, and unlike each other everywhere, biases too."""
    draw = np.random.default_rng(seed).normal
    return jax.tree.map(
        lambda x: jnp.asarray(draw(size=x.shape), x.dtype), abstract_params(config)
    )


def check(server, seed, tmp_path, config=CONFIG):
    """Compare all tensors, bit by bit, with the files that `save` writes."""
    directory = tmp_path / f"saved-{seed}"
    save(directory, config, weights(seed, config), dtype=config.dtype)
    expected = load_file(directory / "model.safetensors")
    for received in server.weights:
        assert received.keys() == expected.keys()
        for name, tensor in expected.items():
            assert received[name].dtype == tensor.dtype
            assert received[name].shape == tensor.shape
            assert received[name].tobytes() == tensor.tobytes(), name


def names(calls):
    return [name for name, *_ in calls]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("ranks", [1, 2])
def test_servers_receive_what_files_would_hold(
    serve, connect, tmp_path, dtype, tied, ranks
):
    config = dataclasses.replace(CONFIG, dtype=dtype, tie_word_embeddings=tied)
    server = serve(ranks=ranks)
    engine = connect(server, config=config)
    check(server, 0, tmp_path, config)
    engine.push(weights(1, config), 1)
    check(server, 1, tmp_path, config)


def test_calls_are_those_that_workers_wait_for(serve, connect, calls):
    server = serve()
    engine = connect(server)
    engine.push(weights(1), 1)
    assert names(calls()) == [
        "ncclGetUniqueId",
        "ncclCommInitRankConfig",
        "ncclAllReduce",  # before anything else
        *["ncclBroadcast"] * (2 * TENSORS),  # in one group
    ]
    assert calls(rank=1)[0] == ("ncclCommInitRank", 2, 0)
    sent = [(count, kind) for name, count, kind in calls() if name == "ncclBroadcast"]
    sizes = [int(np.prod(shape)) for shape in manifest(CONFIG).values()]
    assert sent == [(size, 7) for size in sizes] * 2
    connect.close()
    assert names(calls())[-1] == "ncclCommAbort"


def test_servers_are_asked_as_for_files_but_for_the_world_size(serve, connect):
    server = serve()
    connect(server)
    assert server.asked == [
        "/weight_info",
        "/openapi.json",
        "/get_world_size",
        INIT,
        "/pause",
        START,
        UPDATE,
        "/finish_weight_update",
        "/reset_prefix_cache",
        RESUME,
        "/weight_info",
        "/v1/models",
        "/v1/completions",
    ]


def test_layers_come_one_after_the_other_as_vllm_builds_them():
    order = [name.split(".")[2] for name in manifest(CONFIG) if "layers" in name]
    assert order == sorted(order)
    assert next(iter(manifest(CONFIG))) == EMBEDDING


def test_replicas_have_groups_of_their_own(serve, connect, calls, tmp_path):
    servers = [serve(), serve(ranks=2)]
    engine = connect(*servers)
    engine.push(weights(1), 1)
    for server in servers:
        check(server, 1, tmp_path)
    sizes = [n for name, n, _ in calls() if name == "ncclCommInitRankConfig"]
    assert sorted(sizes) == [2, 3]


def test_a_server_that_was_started_again_gets_a_new_group(
    serve, connect, calls, tmp_path
):
    servers = [serve(), serve()]
    engine = connect(*servers, ours=True)
    servers[0].stop()
    engine.push(weights(1), 1)
    assert engine.counters["restarted"] == 1
    for server in servers:
        check(server, 1, tmp_path)
    assert names(calls()).count("ncclCommInitRankConfig") == 3
    assert names(calls()).count("ncclCommAbort") == 1


def test_another_trainers_group_is_ended_before_ours_begins(serve, connect, tmp_path):
    server = serve()
    connect(server)
    connect.close()
    del server.asked[:]
    connect(server)
    ended = server.asked.index("/shutdown_weight_transfer_engine")
    assert ended < server.asked.index(INIT)
    check(server, 0, tmp_path)


def test_a_server_that_refuses_to_join_is_told_and_may_join_later(
    serve, connect, calls, tmp_path
):
    server = serve()
    engine = connect(server)
    engine._transfer.close()
    server.faults[INIT] = ["refuse"]
    with pytest.raises(RuntimeError, match=r"does not take version 1.*500: .* fails"):
        engine.push(weights(1), 1)
    assert names(calls())[-2:] == ["ncclCommInitRankConfig", "ncclCommAbort"]
    check(server, 0, tmp_path)  # it has what it had
    engine.push(weights(2), 2)
    check(server, 2, tmp_path)


def test_an_update_that_fails_midway_is_tried_once_more_in_a_new_group(
    serve, connect, calls, tmp_path
):
    server = serve()
    engine = connect(server)
    del server.asked[:]
    server.faults[UPDATE] = [5]
    engine.push(weights(1), 1)
    check(server, 1, tmp_path)
    second = server.asked.index(INIT)
    assert RESUME not in server.asked[:second]  # incomplete weights were never served
    began = len(calls()) - names(calls())[::-1].index("ncclGetUniqueId") - 1
    assert names(calls())[began - 1 :] == [
        "ncclCommAbort",
        "ncclGetUniqueId",
        "ncclCommInitRankConfig",
        "ncclAllReduce",
        *["ncclBroadcast"] * TENSORS,
    ]


def test_an_update_that_fails_twice_is_an_error_and_the_next_push_works(
    serve, connect, tmp_path
):
    server = serve()
    engine = connect(server)
    del server.asked[:]
    server.faults[UPDATE] = [5, 0]
    with pytest.raises(
        RuntimeError, match=r"may have incomplete weights of version 1.*does not"
    ):
        engine.push(weights(1), 1)
    assert RESUME not in server.asked
    engine.push(weights(2), 2)
    check(server, 2, tmp_path)


def test_a_failure_of_ours_is_tried_once_more_and_named_if_that_fails_too(
    serve, connect, calls, tmp_path
):
    server = serve()
    engine = connect(server, ours=True)
    calls.fail("ncclBroadcast", after=3)
    engine.push(weights(1), 1)
    check(server, 1, tmp_path)
    assert engine.counters["restarted"] == 1
    calls.fail("ncclBroadcast", times=2)
    # The second is what the server says of it, which may be heard first.
    named = r"twice: .*(unhandled system error|ncclBroadcast: 6).*was restarted; then "
    with pytest.raises(RuntimeError, match=named):
        engine.push(weights(2), 2)
    engine.push(weights(3), 3)
    check(server, 3, tmp_path)


@pytest.mark.parametrize("route", [INIT, UPDATE])
def test_a_server_that_does_not_take_part_is_not_waited_for_without_end(
    serve, connect, calls, tmp_path, route
):
    server = serve()
    engine = connect(server)
    transfer = engine._transfer
    if route == INIT:
        transfer.close()
    transfer._timeout_s = 0.2
    server.faults[route] = ["silent"]
    aborts = names(calls()).count("ncclCommAbort")

    def wake_up_when_we_have_given_up():
        while names(calls()).count("ncclCommAbort") == aborts:
            time.sleep(0.01)
        transfer._timeout_s = 60.0
        server.released.set()

    waking = threading.Thread(target=wake_up_when_we_have_given_up)
    waking.start()
    engine.push(weights(1), 1)
    waking.join()
    assert engine.counters["restarted"] == 1
    check(server, 1, tmp_path)


def test_a_wait_is_ended_by_its_deadline(library, calls):
    """The other rank is not there at all."""
    nccl = Nccl(str(library), 0, str(library))
    with pytest.raises(
        NcclError, match=r"^timeout_s=0\.2: the other ranks did not take"
    ):
        Group(nccl, nccl.unique_id(), 2, Deadline(0.2))
    deadline = Deadline(1e9)
    deadline.cancel()
    with pytest.raises(NcclError, match="cancelled"):
        Group(nccl, nccl.unique_id(), 2, deadline)
    assert names(calls()).count("ncclCommAbort") == 2


def test_a_call_that_fails_is_named_with_its_reason(library, calls):
    nccl = Nccl(str(library), 0, str(library))
    calls.fail("ncclCommInitRankConfig")
    message = r"ncclCommInitRankConfig of NCCL 2\.29\.7: unhandled system error"
    with pytest.raises(NcclError, match=message):
        Group(nccl, nccl.unique_id(), 2, Deadline(5))


def test_libraries_that_cannot_be_used_are_named_with_a_way_out(library, tmp_path):
    source, path = tmp_path / "old.c", tmp_path / "libold.so"
    source.write_text("int ncclGetVersion(int *v) { *v = 21000; return 0; }\n")
    subprocess.run([COMPILER, "-shared", "-fPIC", "-o", path, source], check=True)
    way_out = r".*set libnccl to the libnccl\.so\.2 of vLLM's.*transfer='files'"
    with pytest.raises(
        NcclError, match=r"^libnccl='.*libold\.so.*ncclGetErrorString" + way_out
    ):
        Nccl(str(path), 0, str(library))
    with pytest.raises(NcclError, match=r"^libnccl='/no/libnccl\.so\.2" + way_out):
        Nccl("/no/libnccl.so.2", 0, str(library))
    with pytest.raises(NcclError, match=r"^libcuda='libcuda\.so\.none" + way_out):
        Nccl(str(library), 0, "libcuda.so.none")


def test_the_library_is_that_of_the_servers_environment(tmp_path):
    assert find_library("/no/vllm") == "libnccl.so.2"
    executable = tmp_path / "bin" / "vllm"
    executable.parent.mkdir()
    executable.write_text("#!/bin/sh\n")
    executable.chmod(0o700)
    assert find_library(str(executable)) == "libnccl.so.2"
    library = tmp_path / "lib/python3.12/site-packages/nvidia/nccl/lib/libnccl.so.2"
    library.parent.mkdir(parents=True)
    library.touch()
    assert find_library(str(executable)) == str(library)
    (tmp_path / "link").symlink_to(executable)
    assert find_library(str(tmp_path / "link")) == str(library)
