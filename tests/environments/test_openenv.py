"""Environments served to other trainers: a process of its own, asked over a network."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from contextlib import contextmanager

import aiohttp
import pytest
from programs import HELPERS, ROOT

from reskill_jax.environments.serve import environment_settings, parse, prepare

CORRIDOR = ("--env=corridor_environment", "--splits=train,held_out", "--workers=1")


@contextmanager
def serving(*flags, **environ):
    """Serve until the end of the block; yields what was printed at the start."""
    program = subprocess.Popen(
        [sys.executable, "-m", "reskill_jax.environments.serve", "--port=0", *flags],
        stdout=subprocess.PIPE,
        env=os.environ | HELPERS | environ,
        cwd=ROOT,
        text=True,
    )
    try:
        yield json.loads(program.stdout.readline())
        assert program.poll() is None  # whatever was sent to it
    finally:
        program.send_signal(signal.SIGTERM)
        program.communicate(timeout=60)
    assert program.returncode == 0


@pytest.fixture(scope="module")
def started():
    with serving(*CORRIDOR, "--max_turns=4", "--max_sessions=3") as started:
        yield started


def talk(url, *messages, query=""):
    """Send messages, one after the other; returns the answers until the end."""

    async def main():
        answers = []
        async with (
            aiohttp.ClientSession() as session,
            session.ws_connect(f"{url}/ws{query}", max_msg_size=0) as socket,
        ):
            for message in messages:
                if isinstance(message, bytes):
                    await socket.send_bytes(message)
                else:
                    text = message if isinstance(message, str) else json.dumps(message)
                    await socket.send_str(text)
                answer = await socket.receive(timeout=30)
                if answer.type != aiohttp.WSMsgType.TEXT:
                    answers.append(answer.data)
                    break
                answers.append(json.loads(answer.data))
        return answers

    return asyncio.run(main())


def ask(url, path, body=None, **headers):
    async def main():
        method = "GET" if body is None else "POST"
        async with (
            aiohttp.ClientSession() as session,
            session.request(method, url + path, data=body, headers=headers) as answer,
        ):
            return answer.status, await answer.json()

    return asyncio.run(main())


def reset(**data):
    return {"type": "reset", "data": data}


def step(command):
    return {"type": "step", "data": {"command": command}}


def observation(answer):
    assert answer["type"] == "observation", answer
    return answer["data"]["observation"]


def test_an_episode_is_a_function_of_the_task_and_the_actions(started):
    # The corridor of the tests moves by a hash of the words.
    played = [reset(task_id="train/1"), *map(step, ("a", "b", "c")), {"type": "state"}]
    first, again = (talk(started["url"], *played) for _ in range(2))
    assert first[:-1] == again[:-1]
    begun = first[0]["data"]
    assert begun["reward"] == 0
    assert begun["done"] is False
    assert begun["observation"] == {
        "text": "door 1 after 0",
        "goal": "reach door 3",
        "actions": ["left", "right", "look"],
        "hint": "",
        "valid": True,
        "success": False,
        "question": False,
        "scores": {},
        "task_id": "train/1",
        "turn": 0,
    }
    state = first[-1]["data"]
    assert state["step_count"] == 3
    assert state["task_id"] == "train/1"


def test_the_turn_limit_ends_an_episode(started):
    answers = talk(
        started["url"],
        reset(task_id="train/0"),
        *[step("to and fro")] * 5,
        reset(split="held_out", index=1, episode_id="mine"),
        {"type": "state"},
        {"type": "close"},
    )
    done = [answer["data"].get("done") for answer in answers[:5]]
    assert done == [False, False, False, False, True]
    assert answers[5]["data"]["code"] == "EXECUTION_ERROR"
    assert observation(answers[6])["task_id"] == "held_out/1"
    assert answers[7]["data"]["episode_id"] == "mine"


def test_a_reward_a_success_and_a_response_of_a_model_are_told(started):
    """Two steps to the right; the words were looked for."""
    right = next(w for w in map(str, range(99)) if moves(w) == "right")
    answers = talk(
        started["url"],
        reset(task_id="train/1"),
        {"type": "step", "data": {"response": f"So: <action>{right}</action>"}},
        {"type": "step", "data": {"response": right}},
    )
    assert [observation(answer)["valid"] for answer in answers[1:]] == [True, False]
    assert answers[2]["data"]["reward"] == 1
    assert answers[2]["data"]["done"] is True
    assert observation(answers[2])["success"] is True


def moves(word):
    from zlib import crc32

    from corridor import ACTIONS

    return ACTIONS[crc32(word.encode()) % len(ACTIONS)]


def test_a_seed_chooses_a_task_and_none_the_next(started):
    url = started["url"]
    seeds = [observation(a)["task_id"] for a in talk(url, *map(seed, (7, 7, 8, 9)))]
    assert seeds[0] == seeds[1]
    assert len(set(seeds)) > 1
    following = [observation(a)["task_id"] for a in talk(url, *[reset()] * 12)]
    assert sorted(following) == sorted(f"train/{k}" for k in range(12))


def test_every_split_gives_its_tasks_one_after_the_other(started):
    url, split = started["url"], "held_out"
    asked = [observation(a)["task_id"] for a in talk(url, *[reset(split=split)] * 3)]
    assert len(set(asked)) == 3


def seed(value):
    return reset(seed=value)


HOSTILE = {
    "": "INVALID_JSON",
    "{": "INVALID_JSON",
    '{"type": "reset", "data": {"a":' + "[" * 100_000: "INVALID_JSON",
    '{"type": "\\ud800"}': "INVALID_JSON",
    "3": "VALIDATION_ERROR",
    "null": "VALIDATION_ERROR",
    "{}": "VALIDATION_ERROR",
    '{"type": 1}': "VALIDATION_ERROR",
    '{"type": "reset", "data": []}': "VALIDATION_ERROR",
    '{"type": "dance"}': "UNKNOWN_TYPE",
    '{"type": "mcp", "data": {}}': "UNKNOWN_TYPE",
    json.dumps(reset(seed="7")): "VALIDATION_ERROR",
    json.dumps(reset(seed=-1)): "VALIDATION_ERROR",
    json.dumps(reset(seed=10**30)): "VALIDATION_ERROR",
    json.dumps(reset(index=12)): "VALIDATION_ERROR",
    json.dumps(reset(split="../../etc")): "VALIDATION_ERROR",
    json.dumps(reset(task_id="train/99")): "VALIDATION_ERROR",
    json.dumps(reset(episode_id="x" * 256)): "VALIDATION_ERROR",
    json.dumps(reset(source="/etc/passwd")): "VALIDATION_ERROR",
    json.dumps({"type": "step", "data": {}}): "VALIDATION_ERROR",
    json.dumps({"type": "step", "data": {"command": None}}): "VALIDATION_ERROR",
    json.dumps({"type": "step", "data": {"command": ["look"]}}): "VALIDATION_ERROR",
    json.dumps({"type": "step", "data": {"command": "a", "response": "b"}}): (
        "VALIDATION_ERROR"
    ),
    json.dumps(step("x" * 200_000)): "VALIDATION_ERROR",
    b"\x80\x04bytes": "INVALID_JSON",
}


def test_what_may_not_be_sent_changes_nothing(started):
    """One session gets all of it, in the middle of an episode."""
    before = [reset(task_id="train/1"), step("a")]
    after = [step("b"), {"type": "state"}]
    plain = talk(started["url"], *before, *after)
    answers = talk(started["url"], *before, *HOSTILE, *after)
    assert [a["type"] for a in answers[2:-2]] == ["error"] * len(HOSTILE)
    codes = dict(zip(HOSTILE, (a["data"]["code"] for a in answers[2:-2]), strict=True))
    assert codes == HOSTILE
    assert all(len(json.dumps(answer)) < 1000 for answer in answers)
    assert answers[-2] == plain[-2]
    assert answers[-1]["data"]["step_count"] == plain[-1]["data"]["step_count"] == 2


def test_a_session_may_send_no_message_without_end(started):
    try:
        [end] = talk(started["url"], "x" * 5_000_000)
    except ConnectionError:
        end = None  # hung up before all was sent
    assert end in (None, 1009)  # message too big
    assert observation(talk(started["url"], reset(index=0))[0])["turn"] == 0


def test_a_step_without_an_episode_is_refused(started):
    first, second = talk(started["url"], step("look"), {"type": "state"})
    assert first["data"]["code"] == "EXECUTION_ERROR"
    assert second["data"]["episode_id"] is None


def test_unknown_sessions_and_too_many_are_refused(started):
    [refused] = talk(started["url"], "", query="?session_id=of-another")
    assert refused["data"] == {"message": "unknown session", "code": "SESSION_ERROR"}

    async def crowd():
        async with aiohttp.ClientSession() as session:
            sockets = [await session.ws_connect(f"{started['url']}/ws") for _ in "four"]
            last = (await sockets[-1].receive(timeout=30)).json()
            for socket in sockets:
                await socket.close()
            return last

    assert asyncio.run(crowd())["data"]["code"] == "CAPACITY_REACHED"
    assert observation(talk(started["url"], reset(index=3))[0])["task_id"] == "train/3"


def test_many_sessions_play_side_by_side():
    """Each of them sees what it would see alone."""

    async def play(session, url, index):
        async with session.ws_connect(f"{url}/ws") as socket:
            texts = []
            for message in (reset(index=index), *map(step, "abc")):
                await socket.send_json(message)
                texts.append(await socket.receive_json(timeout=60))
            return texts

    async def main(url, indices):
        async with aiohttp.ClientSession() as session:
            return await asyncio.gather(*(play(session, url, i) for i in indices))

    with serving(*CORRIDOR[:2], "--workers=2") as started:
        together = asyncio.run(main(started["url"], range(12)))
        alone = [asyncio.run(main(started["url"], [i]))[0] for i in range(12)]
    assert together == alone


def test_coroutines_are_served_like_processes(started):
    with serving(*CORRIDOR, "--env.remote=true", "--max_turns=4") as remote:
        assert remote["panels"] == started["panels"]
        played = [reset(task_id="train/1"), *map(step, "abcd")]
        assert talk(remote["url"], *played) == talk(started["url"], *played)


def test_who_sends_nothing_is_sent_away():
    with serving(*CORRIDOR, "--idle_seconds=0.5") as started:

        async def wait():
            async with (
                aiohttp.ClientSession() as session,
                session.ws_connect(f"{started['url']}/ws") as socket,
            ):
                told = await socket.receive_json(timeout=30)
                return told, (await socket.receive(timeout=30)).type

        told, end = asyncio.run(wait())
    assert told["data"]["code"] == "SESSION_ERROR"
    assert end == aiohttp.WSMsgType.CLOSE


def test_an_episode_that_takes_too_long_is_given_up():
    with serving(*CORRIDOR, "--episode_seconds=0.5") as started:

        async def dawdle():
            async with (
                aiohttp.ClientSession() as session,
                session.ws_connect(f"{started['url']}/ws") as socket,
            ):
                answers = []
                for pause, message in ((0, reset()), (1, step("a")), (0, reset())):
                    await asyncio.sleep(pause)
                    await socket.send_json(message)
                    answers.append(await socket.receive_json(timeout=30))
                return answers

        answers = asyncio.run(dawdle())
    assert [a["type"] for a in answers] == ["observation", "error", "observation"]
    assert "reset" in answers[1]["data"]["message"]


def test_a_failing_environment_costs_one_episode_and_tells_nothing():
    with serving(*CORRIDOR, "--env.broken=1") as started:
        failed, other = talk(started["url"], reset(index=0), reset(index=1))
    assert failed["data"]["code"] == "EXECUTION_ERROR"
    assert failed["data"]["message"].startswith("the environment failed")
    assert "Traceback" not in json.dumps(failed)
    assert observation(other)["task_id"] == "train/1"


def test_tasks_are_listed_without_what_solves_them(started):
    url, name = started["url"], "corridor_environment"
    assert ask(url, "/health") == (200, {"status": "healthy"})
    assert ask(url, "/list_environments") == (200, [name])
    splits = ask(url, f"/{name}/splits")[1]
    assert [split["name"] for split in splits] == ["train", "held_out"]
    body = json.dumps({"split": "held_out", "start": 1, "stop": 3})
    assert ask(url, f"/{name}/task_range", body) == (
        200,
        {
            "tasks": [
                {"id": "held_out/1", "kind": "from-1", "split": "held_out"},
                {"id": "held_out/2", "kind": "from-2", "split": "held_out"},
            ]
        },
    )
    for place in ("start", "stop"):
        body = json.dumps({"split": "held_out", place: -1})
        told = {"detail": f"{place}=-1: must be at least 0"}
        assert ask(url, f"/{name}/task_range", body) == (400, told)
    held_out = json.dumps({"split": "held_out"})
    assert ask(url, f"/{name}/num_tasks", held_out)[1] == {"num_tasks": 4}
    assert len(ask(url, f"/{name}/tasks", held_out)[1]["tasks"]) == 4
    last = json.dumps({"split": "held_out", "index": 4})
    assert ask(url, f"/{name}/task", last)[0] == 400
    assert ask(url, f"/{name}/tasks", b"{")[0] == 400
    assert ask(url, f"/{name}/tasks", b"x" * 5_000_000)[0] == 413
    assert ask(url, "/other/tasks", held_out)[0] == 404
    assert ask(url, "/health", Origin="http://page.example")[0] == 403
    assert set(ask(url, "/schema")[1]) == {"action", "observation", "state"}
    assert started["panels"]["held_out"] in ask(url, "/metadata")[1]["description"]


def test_the_official_client_plays(started):
    openenv = pytest.importorskip(
        "openenv.core", reason="needs pip install --no-deps openenv"
    )
    with openenv.GenericEnvClient(base_url=started["url"]).sync() as client:
        result = client.reset(task_id="train/1")
        assert result.observation["goal"] == "reach door 3"
        rewards = []
        while not result.done:
            result = client.step({"command": "to and fro"})
            rewards.append(result.reward)
        assert len(rewards) <= 4
        assert client.state()["reward"] == sum(rewards)
        with pytest.raises(RuntimeError, match="the episode is done"):
            client.step({"command": "on"})
        with pytest.raises(RuntimeError, match="VALIDATION_ERROR"):
            client.reset(index=-1)
        assert client.reset(seed=3).observation["turn"] == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    "flags",
    [
        ["--config=configs/alfworld.py:smoke"],
        ["--config=configs/scienceworld.py:smoke"],
        ["--config=configs/search.py:smoke"],
        ["--config=configs/sql.py:smoke"],
        ["--env=wands", "--env.synthetic=true", "--splits=train,synthetic"],
    ],
    ids=lambda flags: flags[0],
)
def test_every_environment_is_served_as_runs_play_it(flags):
    with serving(*flags, "--workers=1", "--max_turns=3") as started:
        said = ["look around", "SELECT 1", "<search>who</search>"]
        played = [reset(index=0), *map(step, said), {"type": "state"}]
        first, again = (talk(started["url"], *played) for _ in range(2))
    assert first[:-1] == again[:-1]
    assert [answer["type"] for answer in first[:2]] == ["observation"] * 2
    assert observation(first[0])["goal"]
    assert len(started["panels"]) >= 2


def test_settings_are_those_of_the_section_env():
    import corridor_environment as module

    arguments, changes = parse(["--env=x", "--env.train=3", "--env.remote=True"])
    assert arguments.env == "x"
    assert environment_settings(module, {"held_out": 2}, changes) == module.Settings(
        train=3, held_out=2, remote=True
    )
    for key, value in (
        *(("train", "many"), ("train", "2.5"), ("train", "1e999")),
        *(("remote", "1"), ("doors", "2")),
    ):
        with pytest.raises(ValueError, match=rf"env\.{key}"):
            environment_settings(module, {}, {key: value})


@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        ([], "env is empty"),
        (["--env=chess"], "name='chess'"),
        (["--config=configs/chess.py"], "there is no file"),
        (["--config=configs/sql.py:smoke", "--env=wands"], "--config is for 'sql'"),
        (["--env=corridor_environment", "--splits=dev"], "split='dev'"),
        (["--env=corridor_environment", "--idle_seconds=-1"], "idle_seconds=-1"),
    ],
)
def test_bad_flags_are_named(flags, problem, monkeypatch):
    from contextlib import ExitStack

    monkeypatch.chdir(ROOT)
    with ExitStack() as resources, pytest.raises(ValueError, match=problem):
        prepare(*parse(flags), resources)
