"""Plays episodes: the engine acts, environments answer, everything is recorded.

Every episode is a coroutine that waits only for its own environment and its own
responses. What it samples is a function of (weights, task, context, seed): neither
timing nor the other episodes enter. So an episode whose environment failed is played
again from its beginning, and if that helps, nobody can tell afterwards.
"""

import asyncio
import hashlib
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
from absl import logging

from reskill_jax import distributed
from reskill_jax.codec import decode, encode
from reskill_jax.environments.action_format import ActionFormat
from reskill_jax.environments.protocol import EpisodeLostError
from reskill_jax.environments.task import Task
from reskill_jax.rollout.checked import begin
from reskill_jax.rollout.context import Context
from reskill_jax.rollout.conversation import Conversation
from reskill_jax.rollout.engine import Engine, Request, Sampling
from reskill_jax.rollout.episode import Episode, Turn
from reskill_jax.rollout.meter import Recorder
from reskill_jax.rollout.metrics import length_metrics
from reskill_jax.rollout.prompts import PromptBuilder
from reskill_jax.storage import well_formed
from reskill_jax.terminal import activity


class Players(Protocol):
    """Where episodes are played: a pool of processes, or coroutines here."""

    def open(self, group: str) -> AbstractContextManager[Any]:
        """Begin an episode: an environment whose methods are awaited.

        Args:
            group: episodes of one group may share what their player caches.
        """
        ...


@dataclass(frozen=True)
class Collector:
    """Everything that an episode needs, whatever its task.

    Attributes:
        engine: samples responses.
        players: play environments.
        prompts: renders prompts.
        action_format: reads responses.
        max_turns: an episode that has not ended by then is finished.
        concurrency: episodes in flight at once.
        max_attempts: how often an episode is begun before it is given up as lost.
        told: tracebacks of lost episodes that were logged, each once.
    """

    engine: Engine
    players: Players
    prompts: PromptBuilder
    action_format: ActionFormat
    max_turns: int
    concurrency: int
    max_attempts: int = 1
    told: set[str] = field(default_factory=set)

    async def collect(
        self,
        tasks: Sequence[Task],
        arms: np.ndarray,
        contexts: Sequence[Context],
        *,
        sampling: Sampling,
        seed: int,
        what: str = "playing",
        only_whole_groups: bool = False,
        meter: float = 0.0,
        by_task: bool = False,
    ) -> list[Episode]:
        """Play every task once per column of `arms`.

        Where there are several processes, each plays its share of the tasks, and all
        get all episodes.

        Args:
            tasks: one per group.
            arms: int [len(tasks), G], the index into `contexts` for each rollout; a
                negative one is not played.
            contexts: the contexts in play.
            sampling: how responses are sampled.
            seed: all sampling follows from it.
            what: this is, in words, for people who wait.
            only_whole_groups: stop playing a group once an episode of it is lost; the
                others of that group then count as lost, too.
            meter: share of the tokens that is to be scored without a skill; see
                `rollout.meter`.
            by_task: sampling follows from a task's id, not from its place among the
                tasks, so that it is the same beside others; ids must differ.

        Returns:
            The episodes, ordered by group, then by index within the group; with those
            that were lost (`Episode.lost`).
        """
        gate = asyncio.Semaphore(self.concurrency)
        ended = 0

        async def play(episode: Episode) -> Episode:
            nonlocal ended
            async with gate:
                context = contexts[episode.arm]
                place = episode.task.id if by_task else episode.group
                session = f"{seed}/{place}/{episode.index}"
                played = await self._attempt(episode, context, sampling, session, meter)
            ended += 1
            return played

        mine = [
            [
                Episode(tasks[group], group, index, int(arm), contexts[arm].hash)
                for index, arm in enumerate(arms[group])
                if arm >= 0
            ]
            for group in distributed.share(len(tasks))
        ]
        total = sum(map(len, mine))
        try:
            with activity(what, lambda: f"{ended} of {total} episodes"):
                async with asyncio.TaskGroup() as running:
                    groups = [
                        running.create_task(_play_group(group, play, only_whole_groups))
                        for group in mine
                    ]
        except BaseExceptionGroup as group:  # the first failure cancels the others
            raise _first(group) from group
        played = [episode for group in groups for episode in group.result()]
        if distributed.is_alone():
            return played
        # This blocks, but nothing else is left to do.
        shares = decode(list[list[Episode]], distributed.gather(encode(played)))
        episodes = [episode for share in shares for episode in share]
        return sorted(episodes, key=lambda episode: (episode.group, episode.index))

    async def _attempt(
        self,
        blank: Episode,
        context: Context,
        sampling: Sampling,
        session: str,
        meter: float,
    ) -> Episode:
        """Play an episode, from its beginning again where it was lost."""
        attempt = 1
        while True:
            episode = replace(blank, trunks=[], turns=[])
            try:
                recorder = Recorder(session, meter)
                await self._play(episode, context, sampling, session, recorder)
                return episode
            except EpisodeLostError as error:
                pause = error.again_after_s
                first, _, traceback = str(error).partition("\n")
                if pause is None or attempt >= self.max_attempts:
                    told = first if traceback in self.told else str(error)
                    self.told.add(traceback)
                    logging.warning("task %s is lost: %s", blank.task.id, told)
                    return replace(blank, lost=str(error))
                logging.warning("task %s is played again: %s", blank.task.id, first)
            finally:
                self.engine.release(session)
            await asyncio.sleep(pause * 2 ** (attempt - 1))
            attempt += 1

    async def _play(
        self,
        episode: Episode,
        context: Context,
        sampling: Sampling,
        session: str,
        recorder: Recorder,
    ) -> None:
        """Fill in `episode` by playing it to its end."""
        with self.players.open(episode.task.id) as environment:
            goal, now = await environment.reset(episode.task)
            episode.goal = well_formed(goal)
            guide = await begin(context, episode.task, episode.goal, now)
            episode.opening = guide.opening
            talk = Conversation(self.prompts, episode.goal, now, guide)
            episode.opening_cut = not talk.whole
            previous = None  # the last action that did not answer a question
            while not now.done and len(episode.turns) < self.max_turns:
                notes = guide.notes(now, previous)
                prompt = talk.prompt(now, notes)
                trunk = talk.trunks[prompt.window][: prompt.trunk_length]
                completion = await self.engine.generate(
                    Request(
                        session=session,
                        prompt=trunk + prompt.branch,
                        sampling=sampling,
                        seed=_fold(session, len(episode.turns)),
                    )
                )
                tokenizer = self.prompts.tokenizer
                text = tokenizer.decode(completion.tokens)
                action = self.action_format.parse(tokenizer.opened + text, guide.tags)
                before, reply = now, None
                if action.tag in guide.tags:
                    reply = await guide.answer(action)
                if reply is None:
                    now = await environment.step(action.text)
                else:
                    now = replace(now, text=reply, reward=0.0, understood=True)
                episode.turns.append(
                    Turn(
                        window=prompt.window,
                        trunk_length=prompt.trunk_length,
                        branch=np.asarray(prompt.branch, np.int32),
                        response=completion.tokens,
                        logprobs=completion.logprobs,
                        version=completion.version,
                        stopped=completion.stopped,
                        observation=before.text,
                        text=text,
                        action=action.text,
                        reward=now.reward,
                        valid=action.well_formed and now.understood,
                        active_skills=tuple(
                            note.name for note in notes[: prompt.notes]
                        ),
                        ablation=recorder.record(
                            talk, prompt, before, notes, len(episode.turns)
                        ),
                    )
                )
                talk.advance(action.text, now.text)
                previous = previous if before.question else action.text
            episode.final_observation = now.text
            if not now.done:
                now = await environment.finish()
                episode.turns[-1].reward += now.reward
        episode.reward = sum((turn.reward for turn in episode.turns), 0.0)
        episode.success = now.success
        episode.scores = dict(now.scores)
        episode.trunks = [np.asarray(trunk, np.int32) for trunk in talk.trunks]


async def _play_group(
    group: Sequence[Episode],
    play: Callable[[Episode], Coroutine[Any, Any, Episode]],
    only_whole: bool,
) -> list[Episode]:
    """Play the episodes of a group; see `Collector.collect`."""

    async def one(episode: Episode) -> Episode:
        played = await play(episode)
        if played.lost and only_whole:
            for task in tasks:
                if task is not asyncio.current_task():
                    task.cancel()
        return played

    async with asyncio.TaskGroup() as running:
        tasks = [running.create_task(one(episode)) for episode in group]
    results = [None if task.cancelled() else task.result() for task in tasks]
    reason = next((e.lost for e in results if e and e.lost), "")
    return [
        played or replace(blank, lost=reason)
        for played, blank in zip(results, group, strict=True)
    ]


def _first(group: BaseExceptionGroup) -> BaseException:
    """Return the first of the exceptions in a group, and in groups in it."""
    first = group.exceptions[0]
    return _first(first) if isinstance(first, BaseExceptionGroup) else first


def greedy(sampling: Sampling) -> Sampling:
    """Return the evaluation's sampling: the same limits, no randomness."""
    return replace(sampling, temperature=0.0, top_p=1.0)


def _fold(session: str, turn: int) -> int:
    """Derive a request's seed, 31 bits, from its place in the run."""
    digest = hashlib.blake2b(f"{session}/{turn}".encode(), digest_size=4).digest()
    return int.from_bytes(digest, "little") >> 1


def rollout_metrics(
    episodes: Sequence[Episode], seconds: float, *, prefix: str = "rollout"
) -> dict[str, float]:
    """Summarise episodes; collecting them took so many seconds."""
    if not episodes:
        return {f"time/{prefix}": seconds}
    turns = [turn for episode in episodes for turn in episode.turns]
    sampled = sum(len(turn.response) for turn in turns)
    prompt = sum(turn.trunk_length + len(turn.branch) for turn in turns)
    names = sorted({name for episode in episodes for name in episode.scores})
    count = max(len(turns), 1)  # an episode may be over before its first turn
    figures = {
        f"{prefix}/success": float(np.mean([e.success for e in episodes])),
        f"{prefix}/reward": float(np.mean([e.reward for e in episodes])),
        f"{prefix}/turns": len(turns) / len(episodes),
        f"{prefix}/valid": sum(turn.valid for turn in turns) / count,
        f"{prefix}/prompt_tokens": prompt / count,
        f"{prefix}/windows": float(np.mean([len(e.trunks) for e in episodes])),
        f"time/{prefix}": seconds,
        f"speed/{prefix}_tokens": sampled / seconds,
    }
    opened = [e for e in episodes if e.opening]
    if opened:
        cut = float(np.mean([e.opening_cut for e in opened]))
        figures[f"{prefix}/opening_cut"] = cut
    scores = {
        f"{prefix}/{name}": float(np.mean([e.scores.get(name, 0.0) for e in episodes]))
        for name in names
    }
    return figures | length_metrics(episodes, prefix) | scores
