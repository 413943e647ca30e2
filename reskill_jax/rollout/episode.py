"""Episodes: what the collector records and the trainer learns from.

Token ids travel, never text: the trainer sees exactly the ids that the engine saw and
sampled. A prompt is a prefix of the episode's *trunk* (text that stays true: role,
goal, observations and actions) followed by the turn's *branch* (what matters for this
turn only: admissible actions, active skills, the request).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from reskill_jax.environments.task import Task
from reskill_jax.skills.episode_record import EpisodeRecord


@dataclass
class Ablation:
    """The branch of a turn as it would be without one of its skills (`rollout.meter`).

    Attributes:
        skill: name of the one that is left out.
        branch: int32 [n], the prompt after the trunk.
        lot: decides what is scored where not all can be.
        effect: log-prob of the response with the skill less that without it, nats per
            token; None: not scored.
    """

    skill: str
    branch: NDArray[np.int32]
    lot: int
    effect: float | None = None


@dataclass
class Turn:
    """One decision of the agent.

    Attributes:
        window: index into `Episode.trunks` of the trunk that the prompt began with.
        trunk_length: how many of that trunk's tokens the prompt held.
        branch: int32 [n], the prompt after the trunk.
        response: int32 [m], the sampled tokens.
        logprobs: float32 [m], the engine's log-probs of them.
        version: weight version that sampled them.
        observation: text that the agent saw before acting.
        text: the response as text.
        action: the parsed action, as sent to the environment.
        valid: whether the response was well formed and the environment understood it.
        active_skills: names of the notes shown at this turn, in the context's order.
        reward: of the environment for this action; for the last turn with what was
            paid at the turn limit.
        stopped: whether the response ended by itself, not by the length limit.
        ablation: the turn without one of its skills, where that is to be scored.
    """

    window: int
    trunk_length: int
    branch: NDArray[np.int32]
    response: NDArray[np.int32]
    logprobs: NDArray[np.float32]
    version: int
    observation: str
    text: str
    action: str
    valid: bool
    active_skills: tuple[str, ...] = ()
    reward: float = 0.0
    stopped: bool = True
    ablation: Ablation | None = None


@dataclass(frozen=True)
class LostGroup:
    """A group that was dropped, since some of it could not be played.

    Attributes:
        task: id of its task.
        reason: why.
    """

    task: str
    reason: str


@dataclass
class Episode:
    """One rollout of one task on one context.

    Attributes:
        task: the task played.
        group: index of the task in the batch; rollouts of one group share it.
        index: index of the rollout within its group.
        arm: index of its context in the plan; in a trial 0 is the incumbent.
        context: content hash of the context that it ran on.
        goal: the task's goal sentence.
        trunks: int32 arrays, one per window; the last may hold tokens that came after
            the last turn.
        turns: in order.
        final_observation: text after the last action.
        reward: sum of the environment's rewards, as it gave them.
        success: whether the goal was reached within the turn limit.
        scores: further figures that the environment gave at the end.
        lost: why it could not be played, for a reason outside this program; then it has
            no turns. Empty: it was played.
        opening: what its context said at the start, whole.
        opening_cut: whether prompts had room for a part of that only.
        arm_effect: what the arm was expected to add to the success rate, by all that
            was known before the batch was played; 0 for the incumbent.
    """

    task: Task
    group: int
    index: int
    arm: int
    context: str
    goal: str = ""
    trunks: list[NDArray[np.int32]] = field(default_factory=list)
    turns: list[Turn] = field(default_factory=list)
    final_observation: str = ""
    reward: float = 0.0
    success: bool = False
    scores: dict[str, float] = field(default_factory=dict)
    lost: str = ""
    opening: str = ""
    opening_cut: bool = False
    arm_effect: float = 0.0

    def __post_init__(self) -> None:
        """Check that the turns begin within their trunks, and have their log-probs."""
        lengths = {window: len(trunk) for window, trunk in enumerate(self.trunks)}
        for number, turn in enumerate(self.turns):
            length, tokens = lengths.get(turn.window, 0), len(turn.response)
            if not 0 <= turn.trunk_length <= length:
                raise ValueError(
                    f"turn {number}: trunk_length={turn.trunk_length}, but the trunk of"
                    f" window={turn.window} has {length} tokens"
                )
            if len(turn.logprobs) != tokens:
                raise ValueError(
                    f"turn {number}: {len(turn.logprobs)} logprobs of a response of"
                    f" {tokens} tokens"
                )

    def record(self, step: int) -> EpisodeRecord:
        """Distil it as evidence for a creator; training step `step` played it."""
        return EpisodeRecord(
            task=self.task.id,
            kind=self.task.kind,
            goal=self.goal,
            bank=self.context,
            step=step,
            success=self.success,
            actions=self.actions,
            observations=self.observations,
            active_skills=tuple(turn.active_skills for turn in self.turns),
            valid=tuple(turn.valid for turn in self.turns),
        )

    @property
    def actions(self) -> tuple[str, ...]:
        """Parsed actions, in order."""
        return tuple(turn.action for turn in self.turns)

    @property
    def observations(self) -> tuple[str, ...]:
        """What the environment said: before each action, and after the last one."""
        return (*(turn.observation for turn in self.turns), self.final_observation)


def whole_groups(
    episodes: Sequence[Episode],
) -> tuple[list[Episode], tuple[LostGroup, ...]]:
    """Drop every group that has lost an episode, so that all others stay comparable.

    Returns:
        The episodes of the other groups, and what was dropped, both in order.
    """
    lost: dict[int, LostGroup] = {}
    for episode in episodes:
        if episode.lost and episode.group not in lost:
            lost[episode.group] = LostGroup(episode.task.id, episode.lost)
    whole = [episode for episode in episodes if episode.group not in lost]
    return whole, tuple(lost.values())
