"""The prompt of one episode as it grows, window by window."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from reskill_jax.environments.protocol import Observation
from reskill_jax.rollout.context import Guide, Note
from reskill_jax.rollout.prompts import PromptBuilder
from reskill_jax.skills.skill import Skill


@dataclass(frozen=True)
class Prompt:
    """One turn's prompt.

    Attributes:
        window: index of the trunk it begins with.
        trunk_length: how many of that trunk's tokens it holds.
        branch: token ids after the trunk.
        notes: how many of the notes it shows, the first ones.
    """

    window: int
    trunk_length: int
    branch: list[int]
    notes: int = 0


class Conversation:
    """The prompt of one episode as it grows.

    Args:
        builder: renders.
        goal: the task's.
        observation: the first one.
        guide: the context's, for this episode.

    Attributes:
        observations: texts so far.
        actions: those played.
        trunks: a list of tokens per window.
        whole: whether all of the guide's opening is shown.
    """

    def __init__(
        self,
        builder: PromptBuilder,
        goal: str,
        observation: Observation,
        guide: Guide,
    ):
        self._builder = builder
        self._goal = goal
        self._guide = guide
        self._head, self._usual, self.whole = builder.head(
            goal, observation.text, guide, builder.usual(observation)
        )
        self._turns: list[list[int]] = []  # encoded past turns
        self.observations = [observation.text]
        self.actions: list[str] = []
        self.trunks: list[list[int]] = [list(self._head)]

    def prompt(self, observation: Observation, notes: Sequence[Skill | Note]) -> Prompt:
        """Render the prompt of the current turn, opening a new window if it must."""
        builder = self._builder
        section = self._section(notes)
        if builder.layout == "paper":
            self.trunks[-1] = []
            whole, shown = builder.paper(
                self._goal,
                self.observations,
                self.actions,
                observation,
                self._guide,
                section,
            )
            return Prompt(0, 0, whole, shown)
        turn = len(self.actions) + 1
        asked = turn, self._goal, observation, section, self._listed
        branch, shown = builder.branch(*asked)
        if len(self.trunks[-1]) + len(branch) > builder.max_tokens:
            newest = self._newest_turn()
            limit = builder.max_tokens - len(self._head) - len(newest)
            branch, shown = builder.branch(*asked, limit=limit)
            self._reopen(len(branch), newest)
        window = len(self.trunks) - 1
        return Prompt(window, len(self.trunks[-1]), branch, shown)

    def without(
        self,
        prompt: Prompt,
        observation: Observation,
        notes: Sequence[Skill | Note],
        left_out: int,
    ) -> NDArray[np.int32] | None:
        """Render the branch of the current turn again, without one of its notes.

        Args:
            prompt: what `prompt` returned.
            observation: the current one.
            notes: what `prompt` was given.
            left_out: index of the note.

        Returns:
            The branch after the same trunk; None where the prompt had to be shortened,
            or would have to be.
        """
        asked = len(self.actions) + 1, self._goal, observation
        whole, _ = self._builder.branch(*asked, self._section(notes), self._listed)
        head = prompt.branch[: len(prompt.branch) - len(whole)]
        if head + whole != prompt.branch:
            return None
        rest = self._section([note for k, note in enumerate(notes) if k != left_out])
        branch = head + self._builder.branch(*asked, rest, self._listed)[0]
        if prompt.trunk_length + len(branch) > self._builder.max_tokens:
            return None
        return np.asarray(branch, np.int32)

    def _section(self, notes: Sequence[Skill | Note]) -> Sequence[Skill | Note] | None:
        """Return the notes; None where prompts have no section for them."""
        return notes if self._guide.shows_skills or notes else None

    @property
    def _listed(self) -> tuple[str, ...]:
        """Actions that branches need not list; the paper's have no trunk that does."""
        return () if self._builder.layout == "paper" else self._usual

    def advance(self, action: str, observation: str) -> None:
        """Append what was done and what came of it."""
        self.actions.append(action)
        self.observations.append(observation)
        if self._builder.layout == "paper":
            return
        encoded = self._builder.turn(len(self.actions), action, observation)
        self._turns.append(encoded)
        self.trunks[-1].extend(encoded)

    def _newest_turn(self) -> list[int]:
        """Return the newest turn within the share that is always there for one."""
        if not self.actions:
            return []
        action, observation = self.actions[-1], self.observations[-1]
        short = self._builder.short_turn(len(self.actions), action, observation)
        return min(self._turns[-1], short, key=len)

    def _reopen(self, branch: int, shortened: list[int]) -> None:
        """Begin a window with the head and the newest turns, half of the room filled.

        Half, so that a window lasts for several turns and its prefix is worth keeping.
        The newest turn is always there, shortened where it must be.
        """
        room = self._builder.max_tokens - branch - len(self._head)
        newest: list[list[int]] = []
        for turn in reversed(self._turns):
            room_left = room - sum(map(len, newest)) - len(turn)
            if room_left < (room // 2 if newest else 0):
                break
            newest.insert(0, turn)
        if self._turns and not newest:
            newest = [shortened]
        self.trunks.append(self._head + [t for turn in newest for t in turn])
