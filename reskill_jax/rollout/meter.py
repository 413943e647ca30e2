"""Which turns are scored a second time, as if one of their skills had not been shown.

The policy samples a response with a skill in its branch. How much less likely the same
tokens are without it tells whether the policy goes by the skill: nothing changes where
it ignores it. The collector records the other branch, `choose` keeps what a step can
afford, and `grpo.skill_meter` scores it.

All of it follows from the sessions, i.e. from (seed, step, group, rollout, turn): no
random stream of sampling is touched.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

from reskill_jax.environments.protocol import Observation
from reskill_jax.rollout.context import Note
from reskill_jax.rollout.conversation import Conversation, Prompt
from reskill_jax.rollout.episode import Ablation, Episode, Turn
from reskill_jax.skills.skill import Skill

# Episodes record branches for so many times the tokens that a step can afford: those of
# some have no skill, or are too long for what is left.
_RECORDED = 8
_LOTS = 2**32


@dataclass(frozen=True)
class Recorder:
    """Records the branches without a skill of one episode.

    Attributes:
        session: of the episode.
        share: most tokens that are scored again, as a share of a step's; 0: none.
    """

    session: str
    share: float

    def record(
        self,
        talk: Conversation,
        prompt: Prompt,
        observation: Observation,
        notes: Sequence[Skill | Note],
        turn: int,
    ) -> Ablation | None:
        """Render a turn's branch without one of the skills that it shows.

        Args:
            talk: the episode so far.
            prompt: of the turn.
            observation: of the turn.
            notes: those that the prompt was made of.
            turn: its number, from 0.

        Returns:
            None where the episode is not one that is scored again, no skill is shown,
            or the prompt had to be shortened.
        """
        shown = [k for k in range(prompt.notes) if isinstance(notes[k], Skill)]
        if not shown or _lot(self.session) >= _RECORDED * self.share * _LOTS:
            return None
        lot = _lot(f"{self.session}/{turn}/meter")
        left_out = shown[lot % len(shown)]
        branch = talk.without(prompt, observation, notes, left_out)
        if branch is None:
            return None
        return Ablation(notes[left_out].name, branch, lot)


def choose(episodes: Sequence[Episode], share: float) -> list[Episode]:
    """Return episodes of the turns that a step can afford to score again.

    Whole episodes are preferred to single turns of many, as turns of one episode share
    its trunk.

    Args:
        episodes: of the step.
        share: of their tokens (`tokens_of`) that the result may have.

    Returns:
        Episodes that share `trunks` with some of `episodes`; their turns come in
        pairs: one as it was, and the same without a skill.
    """
    room = share * sum(map(tokens_of, episodes))
    recorded = [
        episode for episode in episodes if any(turn.ablation for turn in episode.turns)
    ]
    chosen = []
    for episode in sorted(recorded, key=_episode_lot):
        turns: list[Turn] = []
        for turn in sorted(episode.turns, key=_turn_lot):
            if turn.ablation is None:
                continue
            more = [*turns, turn, replace(turn, branch=turn.ablation.branch)]
            if tokens_of(replace(episode, turns=more)) <= room:
                turns = more
        if turns:
            chosen.append(replace(episode, turns=turns))
            room -= tokens_of(chosen[-1])
    return chosen


def tokens_of(episode: Episode) -> int:
    """Count the tokens of an episode's trees, each once; see `grpo.packing`."""
    trunks: dict[int, int] = {}
    for turn in episode.turns:
        trunks[turn.window] = max(trunks.get(turn.window, 0), turn.trunk_length)
    own = sum(len(turn.branch) + len(turn.response) for turn in episode.turns)
    return own + sum(trunks.values())


def measured(episodes: Sequence[Episode]) -> dict[str, list[float]]:
    """Return the effects of each skill, one per turn, nats per token."""
    effects: dict[str, list[float]] = {}
    for episode in episodes:
        for turn in episode.turns:
            if turn.ablation and turn.ablation.effect is not None:
                effects.setdefault(turn.ablation.skill, []).append(turn.ablation.effect)
    return effects


def _episode_lot(episode: Episode) -> tuple[int, int, int]:
    lots = [turn.ablation.lot for turn in episode.turns if turn.ablation]
    return lots[0], episode.group, episode.index


def _turn_lot(turn: Turn) -> int:
    return turn.ablation.lot if turn.ablation else 0


def _lot(name: str) -> int:
    """Return a number below 2^32 that follows from a name."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=4).digest())
