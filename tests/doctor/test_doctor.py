"""The parts of a run on hosts broken on purpose, and the whole command."""

import importlib.util
import os
import sys

import jax
import pytest
from corridor_runs import corridor_config
from programs import CPU, HELPERS, start

from reskill_jax.benchmarks.llm_server import LlmServer
from reskill_jax.doctor import devices, learner, report, services
from reskill_jax.doctor.checks import Check, Session, State, examine
from reskill_jax.workdir import Workdir

COMMAND = (
    sys.executable,
    "-m",
    "reskill_jax.main",
    "--mode=doctor",
    "--config=tests/helpers/corridor_runs.py:again",
    "--config.policy.path=random:tiny",
    "--config.mesh.fsdp=1",
)


@pytest.fixture
def session(tmp_path):
    return Session(corridor_config("random:tiny"), Workdir(tmp_path / "run"))


def doctor(workdir, *words, **variables):
    return start(*COMMAND, f"--workdir={workdir}", *words, env=variables)


@pytest.mark.slow
def test_a_host_that_works_is_found_to_work_and_secrets_stay(tmp_path):
    secret = {"LAB_API_KEY": "open-sesame", "RESKILL_NOTE": "see open-sesame"}
    done = doctor(tmp_path / "run", **os.environ | CPU | HELPERS | secret)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " wrong " not in done.stdout
    for name in ("update", "engine", "push", "log-probs", "environment"):
        assert f"\nok       {name} " in done.stdout
    text = (tmp_path / "run" / report.REPORT).read_text()
    assert "RESKILL_NOTE=see $LAB_API_KEY" in text
    assert "open-sesame" not in text
    assert '"group_size": 3' in text


@pytest.mark.slow
def test_what_is_broken_is_told_and_the_rest_is_checked(tmp_path):
    (tmp_path / "file").write_text("")
    done = doctor(
        tmp_path / "file" / "run",  # no directory can be there
        "--config.env.broken=12",
        "--config.engine.name=vllm",
        "--config.engine.vllm.executable=false",
        "--config.engine.vllm.gpu_memory_utilization=0.0",
        **os.environ | CPU | HELPERS,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    lines = [line for line in done.stdout.splitlines() if line[:1].isalpha()]
    states = {line.split()[1]: line.split()[0] for line in lines[:-1]}
    wrong = {name for name, state in states.items() if state == "wrong"}
    assert wrong == {"workdir", "environment", "engine"}
    assert {name for name, s in states.items() if s == "skipped"} == {
        "log-probs",
        "push",
        "sleep",
    }
    assert states["update"] == "ok"
    assert "Traceback" not in done.stdout


def test_attention_that_computes_something_else_is_found(session, monkeypatch):
    assert learner.policy(session).state is State.OK
    assert devices.attention_programs(session).state is State.OK
    right = devices.attention

    def wrong(query, key, value, visible_end, *, backend):
        causal = jax.numpy.full_like(visible_end, query.shape[1])  # sees other branches
        return right(query, key, value, causal, backend=backend)

    monkeypatch.setattr(devices, "attention", wrong)
    finding = devices.attention_programs(session)
    assert finding.state is State.WRONG
    assert "--config.policy.attention" in finding.way_out


def test_a_device_that_computes_wrongly_is_found(session, monkeypatch):
    monkeypatch.setattr(jax.numpy, "matmul", lambda x, y: x @ y + 1)
    assert "wrongly" in devices.devices(session).text


def test_an_environment_that_refuses_is_named(session):
    session.config.env.train = 0  # which the environment refuses
    (finding,) = examine(session, [Check("tasks", services.tasks)])
    assert finding.state is State.WRONG
    assert "train=0: must be 1 or more" in finding.text


@pytest.mark.skipif(
    importlib.util.find_spec("openai") is None, reason="needs openai: the extra llm"
)
@pytest.mark.parametrize(
    ("status", "answer", "state", "text"),
    [
        (200, '{"ready": true}', State.OK, "answered as asked"),
        (200, "no JSON", State.SLOW, "but not as asked"),
        (401, "", State.WRONG, "refused: AuthenticationError"),
        (500, "", State.WRONG, "server: InternalServerError"),
    ],
)
def test_the_creator_is_asked_once(session, monkeypatch, status, answer, state, text):
    def fault(handler):
        if status == 200:
            return False
        body = b'{"error": {"message": "bad open-sesame-key"}}'
        handler.send_response(status)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)
        return True

    monkeypatch.setenv("LAB", "open-sesame-key")
    config = session.config
    config.strategy.name, config.creator.name = "reskill", "openai"
    config.creator.llm.name = "model"
    config.creator.llm.api_key_variable = "LAB"
    with LlmServer(lambda stage, prompt: answer, fault=fault) as server:
        config.creator.llm.base_url = server.url
        finding = services.creator(session)
    assert finding.state is state
    assert text in finding.text
    assert "open-sesame" not in finding.text
    assert bool(finding.way_out) == (state is not State.OK)


@pytest.mark.skipif(
    importlib.util.find_spec("openai") is None, reason="needs openai: the extra llm"
)
def test_the_embedder_is_asked(session, monkeypatch):
    monkeypatch.setenv("LAB", "open-sesame-key")
    config = session.config
    config.strategy.name = "grpo"
    assert services.embedder(session).state is State.SKIPPED
    config.strategy.name = "memrl"
    assert services.embedder(session).text.startswith("lexical: a vector of 1024 ")
    config.embedder.name, config.embedder.model = "openai", "model"
    config.embedder.api_key_variable, config.embedder.max_attempts = "LAB", 1
    config.embedder.base_url = "http://127.0.0.1:9/v1"  # nobody listens
    finding = services.embedder(session)
    assert finding.state is State.WRONG
    assert finding.text.startswith("openai: unreachable: ")
    assert "config.embedder.base_url" in finding.way_out


@pytest.mark.skipif(
    importlib.util.find_spec("aiohttp") is None, reason="needs the extra search"
)
def test_a_dead_retriever_is_named(session):
    from ml_collections import ConfigDict

    from reskill_jax import defaults

    env = defaults.get_config("search").env
    env.questions, env.retriever = "sample", "http://127.0.0.1:9"
    env.request_attempts = 1
    with session.config.unlocked():
        session.config.env = ConfigDict(env)
        session.config.eval.splits = ()
    checks = [
        Check("tasks", services.tasks),
        Check("environment", services.environment, ("tasks",)),
    ]
    tasks, environment = examine(session, checks)
    assert tasks.state is State.OK, tasks
    assert environment.state is State.WRONG
    assert "search[water]" in environment.text
    assert "127.0.0.1" in environment.text
