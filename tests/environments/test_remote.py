"""Remote environments: coroutines that wait for a real server, many at once."""

import asyncio
import contextlib
import functools
import json

import numpy as np
import pytest
from scripted_engine import ScriptedEngine

from reskill_jax.codec import encode
from reskill_jax.environments.action_format import TaggedFormat
from reskill_jax.environments.protocol import Observation
from reskill_jax.environments.remote import RemoteError, RemotePlayers
from reskill_jax.environments.task import Task
from reskill_jax.environments.wording import Wording
from reskill_jax.policy.tokenizer import train_tokenizer
from reskill_jax.rollout.collector import Collector
from reskill_jax.rollout.context import EmptyContext
from reskill_jax.rollout.engine import Sampling
from reskill_jax.rollout.prompts import PromptBuilder

TOKENIZER = train_tokenizer(["<action>echo</action>"] * 3, 300)
TASK = Task("remote/0", "kind", "train", "source")
PATIENCE = 60.0  # seconds until a test gives up on something that must happen


class Service:
    """Answers lines of JSON after 50 ms; knows how many requests are in flight.

    The first request of every episode is answered when `together` of them are there:
    if so many are never in flight at once, nobody is answered.
    """

    def __init__(self, together=1, silent_at="", errors=0):
        self.in_flight = self.most = self.asked = 0
        self._silent_at = silent_at
        self._errors = errors  # steps that it refuses to answer, at first
        self._barrier = asyncio.Barrier(together)

    async def serve(self, reader, writer):
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while line := await reader.readline():
                method, argument = json.loads(line)
                self.in_flight += 1
                self.asked += 1
                self.most = max(self.most, self.in_flight)
                if method == self._silent_at:
                    await asyncio.Event().wait()
                if method == "reset":
                    await self._barrier.wait()
                await asyncio.sleep(0.05)
                self.in_flight -= 1
                if method == "step" and self._errors:
                    self._errors -= 1
                    method, argument = "error", "500"
                writer.write(json.dumps([method, argument]).encode() + b"\n")
        writer.close()


class Client:
    """An environment whose every answer comes from the service; three steps long."""

    opened = closed = 0

    def __init__(self, port):
        self._port = port
        self._writer = None
        type(self).opened += 1

    async def _ask(self, method, argument=""):
        if self._writer is None:
            self._reader, self._writer = await asyncio.open_connection(
                "127.0.0.1", self._port
            )
        self._writer.write(json.dumps([method, argument]).encode() + b"\n")
        what, answer = json.loads(await self._reader.readline())
        if what == "error":
            raise ConnectionError(answer)
        return f"{what} {answer}"

    async def reset(self, task):
        self._steps = 0
        return "goal", Observation(await self._ask("reset", task.id))

    async def step(self, action):
        self._steps += 1
        text = await self._ask("step", action)
        return Observation(text, done=self._steps == 3, success=self._steps == 3)

    async def finish(self):
        return Observation(await self._ask("finish"), reward=0.5, done=True)

    def close(self):
        type(self).closed += 1
        if self._writer is not None:
            self._writer.close()


def play(
    service, episodes, *, concurrency=1, max_turns=3, timeout_s=PATIENCE, max_attempts=1
):
    """Play episodes of one turn text against a service of this event loop."""

    async def main():
        server = await asyncio.start_server(service.serve, "127.0.0.1", 0, backlog=500)
        port = server.sockets[0].getsockname()[1]
        players = RemotePlayers(functools.partial(Client, port), timeout_s=timeout_s)
        collector = Collector(
            ScriptedEngine(TOKENIZER, ["<action>echo</action>"]),
            players,
            PromptBuilder(
                TOKENIZER,
                wording=Wording(role=""),
                layout="tree",
                max_tokens=500,
                max_turns=max_turns,
            ),
            TaggedFormat(),
            max_turns=max_turns,
            concurrency=concurrency,
            max_attempts=max_attempts,
        )
        try:
            return await collector.collect(
                [TASK],
                np.zeros((1, episodes), int),
                [EmptyContext()],
                sampling=Sampling(),
                seed=0,
            )
        finally:
            server.close()

    Client.opened = Client.closed = 0
    return asyncio.run(main())


def test_all_episodes_wait_for_the_service_at_once():
    service = Service(together=200)
    played = play(service, 200, concurrency=200)
    assert service.most == 200
    assert service.asked == 200 * 4
    assert (Client.opened, Client.closed) == (200, 200)
    texts = ("reset remote/0", *["step echo"] * 3)
    assert all(episode.observations == texts for episode in played)
    assert all(episode.success and len(episode.turns) == 3 for episode in played)


def test_no_more_than_the_concurrency_are_in_flight():
    service = Service(together=20)  # 200 episodes are ten times 20
    played = play(service, 200, concurrency=20)
    assert service.most == 20
    assert [episode.index for episode in played] == list(range(200))


def test_the_turn_limit_is_an_end_that_pays():
    [episode] = play(Service(), 1, max_turns=2)
    assert [turn.reward for turn in episode.turns] == [0, 0.5]
    assert (episode.reward, episode.success) == (0.5, False)


@pytest.mark.parametrize(
    ("silent_at", "what"),
    [
        ("reset", "reset of task remote/0"),
        ("step", "step 'echo' of task remote/0"),
        ("finish", "finish of task remote/0"),
    ],
)
def test_a_call_without_an_answer_in_time_loses_the_episode_and_is_named(
    silent_at, what
):
    service = Service(silent_at=silent_at)
    played = play(service, 5, concurrency=5, max_turns=2, timeout_s=0.5)
    for episode in played:
        assert episode.lost.startswith(f"{what} had no answer in timeout_s=0.5: is")
        assert (episode.turns, episode.success) == ([], False)
    # Whatever happens, what was opened is closed.
    assert Client.opened == Client.closed == 5


def test_an_error_of_the_service_costs_another_attempt_and_nothing_else(monkeypatch):
    monkeypatch.setattr(RemoteError, "again_after_s", 0.01)
    wanted = play(Service(), 3, concurrency=3)
    service = Service(errors=2)
    played = play(service, 3, concurrency=3, max_attempts=3)
    assert service.asked > 3 * 4
    assert [encode(episode) for episode in played] == [encode(e) for e in wanted]
    assert Client.opened == Client.closed == 5


def test_a_service_that_stays_broken_loses_the_episode(monkeypatch):
    monkeypatch.setattr(RemoteError, "again_after_s", 0.01)
    service = Service(errors=10**6)
    [episode] = play(service, 1, max_attempts=3)
    assert episode.lost == ("step 'echo' of task remote/0 raised ConnectionError: 500")
    assert service.asked == 3 * 2
    assert Client.opened == Client.closed == 3


def test_pauses_between_attempts_grow(monkeypatch):
    pauses = []
    sleep = asyncio.sleep

    async def noted(seconds):
        if seconds >= 1:
            pauses.append(seconds)
        await sleep(min(seconds, 0.05))

    monkeypatch.setattr(asyncio, "sleep", noted)
    play(Service(errors=10**6), 1, max_attempts=4)
    assert pauses == [1, 2, 4]


@pytest.mark.parametrize("method", ["__init__", "step", "close"])
def test_what_an_environment_raises_is_named_with_the_call(method):
    def broken(*arguments):
        raise LookupError("gone")

    async def main():
        client = type("Broken", (Client,), {method: broken})
        with RemotePlayers(lambda: client(0), timeout_s=1.0).open("g") as environment:
            if method != "close":
                await environment.step("look")

    what = {"__init__": "opening an environment", "step": "step 'look' of task None"}
    named = f"{what.get(method, method)} raised LookupError: gone"
    with pytest.raises(RemoteError) as caught:
        asyncio.run(main())
    assert str(caught.value) == named
