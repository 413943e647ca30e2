"""Plays episodes: the engine acts, environments answer, everything is recorded.

Every episode is a coroutine that waits only for its own environment and its own
responses. What it samples is a function of (weights, task, bank, seed): neither timing
nor the other episodes enter.
"""

import asyncio
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from reskill_jax import distributed
from reskill_jax.codec import decode, encode
from reskill_jax.environments.pool import EnvironmentPool
from reskill_jax.environments.protocol import Task
from reskill_jax.rollout.engine import Engine, Request, Sampling
from reskill_jax.rollout.episode import Episode, Turn
from reskill_jax.rollout.prompts import Conversation, PromptBuilder, project
from reskill_jax.skills.skill import SkillBank


@dataclass(frozen=True)
class Collector:
    """Everything that an episode needs, whatever its task.

    Attributes:
        engine: samples responses.
        pool: plays environments.
        prompts: renders prompts.
        max_turns: an episode without success ends after this many turns.
        concurrency: episodes in flight at once.
    """

    engine: Engine
    pool: EnvironmentPool
    prompts: PromptBuilder
    max_turns: int
    concurrency: int

    async def collect(
        self,
        tasks: Sequence[Task],
        arms: np.ndarray,
        banks: Sequence[SkillBank],
        *,
        sampling: Sampling,
        seed: int,
    ) -> list[Episode]:
        """Play every task once per column of `arms`.

        Where there are several processes, each plays its share of the tasks, and all
        get all episodes.

        Args:
            tasks: one per group.
            arms: int [len(tasks), G], the index into `banks` for each rollout.
            banks: the banks in play.
            sampling: how responses are sampled.
            seed: all sampling follows from it.

        Returns:
            len(tasks) * G episodes, ordered by group, then by index within the group.
        """
        try:
            played = await self._collect(tasks, arms, banks, sampling, seed)
        except ExceptionGroup as group:  # the first failure cancels the others
            raise group.exceptions[0] from group
        if distributed.is_alone():
            return played
        # This blocks, but nothing else is left to do.
        shares = decode(list[list[Episode]], distributed.gather(encode(played)))
        episodes = [episode for share in shares for episode in share]
        return sorted(episodes, key=lambda episode: (episode.group, episode.index))

    async def _collect(
        self,
        tasks: Sequence[Task],
        arms: np.ndarray,
        banks: Sequence[SkillBank],
        sampling: Sampling,
        seed: int,
    ) -> list[Episode]:
        gate = asyncio.Semaphore(self.concurrency)

        async def play(group: int, index: int) -> Episode:
            arm = int(arms[group, index])
            bank = banks[arm]
            episode = Episode(tasks[group], group, index, arm, bank.hash)
            async with gate:
                await self._play(episode, bank, sampling, seed)
            return episode

        async with asyncio.TaskGroup() as running:
            episodes = [
                running.create_task(play(group, index))
                for group in distributed.share(len(tasks))
                for index in range(arms.shape[1])
            ]
        return [episode.result() for episode in episodes]

    async def _play(
        self, episode: Episode, bank: SkillBank, sampling: Sampling, seed: int
    ) -> None:
        """Fill in `episode` by playing it to its end."""
        session = f"{seed}/{episode.group}/{episode.index}"
        with self.pool.open(episode.task.id) as environment:
            episode.goal, now = await environment.reset(episode.task)
            talk = Conversation(self.prompts, episode.goal, now.text, now.admissible)
            while not now.done and len(episode.turns) < self.max_turns:
                previous = episode.turns[-1].action if episode.turns else None
                skills = bank.active(previous)
                prompt = talk.prompt(now.admissible, skills)
                trunk = talk.trunks[prompt.window][: prompt.trunk_length]
                completion = await self.engine.generate(
                    Request(
                        session=session,
                        prompt=trunk + prompt.branch,
                        sampling=sampling,
                        seed=_fold(session, len(episode.turns)),
                    )
                )
                text = self.prompts.tokenizer.decode(completion.tokens)
                action, valid = project(text, now.admissible)
                episode.turns.append(
                    Turn(
                        window=prompt.window,
                        trunk_length=prompt.trunk_length,
                        branch=np.asarray(prompt.branch, np.int32),
                        response=completion.tokens,
                        logprobs=completion.logprobs,
                        version=completion.version,
                        observation=now.text,
                        text=text,
                        action=action,
                        valid=valid,
                        active_skills=tuple(skill.name for skill in skills),
                    )
                )
                now = await environment.step(action)
                talk.advance(action, now.text)
                episode.reward += now.reward
        self.engine.release(session)
        episode.final_observation = now.text
        episode.success = now.success
        episode.trunks = [np.asarray(trunk, np.int32) for trunk in talk.trunks]


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
    turns = [turn for episode in episodes for turn in episode.turns]
    sampled = sum(len(turn.response) for turn in turns)
    prompt = sum(turn.trunk_length + len(turn.branch) for turn in turns)
    return {
        f"{prefix}/success": float(np.mean([e.success for e in episodes])),
        f"{prefix}/turns": len(turns) / len(episodes),
        f"{prefix}/valid": float(np.mean([turn.valid for turn in turns])),
        f"{prefix}/prompt_tokens": prompt / len(turns),
        f"{prefix}/response_tokens": sampled / len(turns),
        f"{prefix}/windows": float(np.mean([len(e.trunks) for e in episodes])),
        f"time/{prefix}": seconds,
        f"speed/{prefix}_tokens": sampled / seconds,
    }
