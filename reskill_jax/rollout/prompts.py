"""Prompts as a trunk with branches.

Text that stays true for the rest of an episode (role, instructions, goal, then action
and observation of every turn) is the *trunk* and only grows. What matters for one turn
only (admissible actions, active skills, the request to act) is that turn's *branch*.
Segments are tokenised separately and once; the flat prompt of turn t is ``trunk[:n_t] +
branch_t``.

``layout="paper"`` renders the published order instead (counters before the history), in
which nothing is shared between turns: the trunk is empty and the branch is everything.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from reskill_jax.environments.protocol import Observation
from reskill_jax.environments.wording import Wording
from reskill_jax.policy.tokenizer import Tokenizer
from reskill_jax.rollout.context import Guide, Note
from reskill_jax.skills.skill import Skill


@dataclass(frozen=True)
class Prompt:
    """One turn's prompt.

    Attributes:
        window: index of the trunk it begins with.
        trunk_length: how many of that trunk's tokens it holds.
        branch: token ids after the trunk.
    """

    window: int
    trunk_length: int
    branch: list[int]


class PromptBuilder:
    """Renders and tokenises prompts; one per run, shared by all episodes.

    Args:
        tokenizer: segments are encoded with it, special tokens only from templates.
        wording: the environment's texts.
        layout: ``tree`` or ``paper``.
        max_tokens: budget of a flat prompt, in tokens.
        max_turns: shown to the agent.
        history: newest turns that the paper layout shows.
        show_actions: whether the admissible actions, or the hint, are shown.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        wording: Wording,
        layout: str,
        max_tokens: int,
        max_turns: int,
        history: int = 50,
        show_actions: bool = True,
    ):
        self.tokenizer = tokenizer
        self.wording = wording
        self.layout = layout
        self.max_tokens = max_tokens
        self.max_turns = max_turns
        self.history = history
        self.show_actions = show_actions

    def usual(self, observation: Observation) -> tuple[str, ...]:
        """Return what the trunk lists of the first turn's actions: all or nothing."""
        actions = observation.actions or ()
        listed = ", ".join(actions)
        if not self.show_actions or self._cut(listed, 4) != listed:
            return ()
        return actions

    def head(
        self, goal: str, observation: str, guide: Guide, usual: Sequence[str] = ()
    ) -> list[int]:
        """Encode what every window of an episode begins with.

        What depends on the guide comes last where it can, so that rollouts of a group
        on different contexts share what comes before.
        """
        text = self.wording.start.format(
            goal=self._cut(goal, 8), observation=self._cut(observation, 4)
        )
        text = self._role(guide) + text
        if usual:
            text += self.wording.usual.format(actions=", ".join(usual))
        if guide.opening:
            text += f"\n{self._cut(guide.opening, 4)}\n"
        text = text.lstrip() if self.tokenizer.trims else text
        return list(self.tokenizer.user_prefix) + self.tokenizer.encode(text)

    def turn(self, turn: int, action: str, observation: str) -> list[int]:
        """Encode one past turn, numbered from 1."""
        text = self.wording.turn.format(
            turn=turn,
            action=self._cut(action, 16),
            observation=self._cut(observation, 4),
        )
        return self.tokenizer.encode(text)

    def branch(
        self,
        turn: int,
        goal: str,
        observation: Observation,
        notes: Sequence[Skill | Note] | None,
        usual: Sequence[str] = (),
    ) -> list[int]:
        """Encode what is said at one turn only, up to the start of the response.

        Without a section for notes, `notes` is None.
        """
        wording = self.wording
        text = ""
        if self.show_actions and observation.actions is not None:
            listed = self._cut(list_actions(wording, observation.actions, usual), 4)
            text += wording.actions.format(actions=listed)
        elif self.show_actions and observation.hint:
            text += wording.hint.format(hint=self._cut(observation.hint, 4))
        if notes is not None:
            shown = "".join(render_note(wording, note) for note in notes)
            text += wording.skills.format(skills=shown or wording.no_skill)
        text += wording.request.format(
            turn=turn, max_turns=self.max_turns, goal=self._cut(goal, 8)
        )
        text = text.rstrip() if self.tokenizer.trims else text
        return self.tokenizer.encode(text) + list(self.tokenizer.assistant_prefix)

    def paper(
        self,
        goal: str,
        observations: Sequence[str],
        actions: Sequence[str],
        observation: Observation,
        guide: Guide,
        notes: Sequence[Skill | Note] | None,
    ) -> list[int]:
        """Encode the published order: counters, history, current state, request.

        Oldest turns go first when the prompt would pass its budget.
        """
        branch = self.branch(len(actions) + 1, goal, observation, notes)
        now = self.tokenizer.encode(f"\nNow: {self._cut(observations[-1], 4)}\n")
        for shown in range(min(len(actions), self.history), -1, -1):
            past = list(zip(observations, actions, strict=False))
            past = past[len(past) - shown :]
            first = len(actions) - shown + 1
            text = f"{self._role(guide)}Goal: {self._cut(goal, 8)}\n"
            if guide.opening:
                text += f"\n{self._cut(guide.opening, 4)}\n"
            if actions:
                text += f"Turns so far: {len(actions)}. The last {len(past)}:\n"
            text += "".join(
                f"[Observation {i}: {self._cut(o, 4)} Action {i}: {a}]\n"
                for i, (o, a) in enumerate(past, first)
            )
            prompt = [
                *self.tokenizer.user_prefix,
                *self.tokenizer.encode(text),
                *now,
                *branch,
            ]
            if len(prompt) <= self.max_tokens:
                return prompt
        raise self._over_budget(len(prompt))

    def _role(self, guide: Guide) -> str:
        with_skills = guide.shows_skills and self.wording.role_with_skills
        return with_skills or self.wording.role

    def _cut(self, text: str, parts: int) -> str:
        """Bound untrusted text to a share of the budget, in tokens at worst."""
        # A token is at least one byte, so this many bytes can never pass the share;
        # the real count is taken only for text that is long enough to matter.
        limit = self.max_tokens // parts
        if len(text.encode()) <= limit:
            return text
        ids = self.tokenizer.encode(text)
        if len(ids) <= limit:
            return text
        return self.tokenizer.decode(ids[: limit - 2]) + " ..."

    def _over_budget(self, length: int) -> ValueError:
        return ValueError(
            f"prompt.max_tokens={self.max_tokens} is too small: the goal, the current "
            f"observation, its actions and skills alone take {length} tokens; raise it"
        )


def list_actions(
    wording: Wording, admissible: Sequence[str], usual: Sequence[str]
) -> str:
    """List actions, by what is different from the usual ones where that is shorter."""
    everything = ", ".join(admissible)
    possible, known = set(admissible), set(usual)
    missing = [action for action in usual if action not in possible]
    other = [action for action in admissible if action not in known]
    text = wording.all_usual
    if missing:
        text += wording.but.format(actions=", ".join(missing))
    if other:
        text += wording.and_also.format(actions=", ".join(other))
    return text if known and len(text) < len(everything) else everything


def render_note(wording: Wording, note: Skill | Note) -> str:
    """Render one active skill, or another note as it is."""
    if isinstance(note, Note):
        return f"{note.text}\n"
    skill = note
    return wording.skill.format(
        name=skill.name,
        when_to_use=skill.when_to_use,
        action=skill.action,
        example=f" Example: {skill.example}" if skill.example else "",
    )


class Conversation:
    """The prompt of one episode as it grows.

    Args:
        builder: renders.
        goal: the task's.
        observation: the first one.
        guide: the context's, for this episode.
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
        self._usual = builder.usual(observation)
        self._head = builder.head(goal, observation.text, guide, self._usual)
        self._turns: list[list[int]] = []  # encoded past turns
        self.observations = [observation.text]
        self.actions: list[str] = []
        self.trunks: list[list[int]] = [list(self._head)]

    def prompt(self, observation: Observation, notes: Sequence[Skill | Note]) -> Prompt:
        """Render the prompt of the current turn, opening a new window if it must."""
        builder = self._builder
        section = notes if self._guide.shows_skills or notes else None
        if builder.layout == "paper":
            self.trunks[-1] = []
            whole = builder.paper(
                self._goal,
                self.observations,
                self.actions,
                observation,
                self._guide,
                section,
            )
            return Prompt(0, 0, whole)
        turn = len(self.actions) + 1
        branch = builder.branch(turn, self._goal, observation, section, self._usual)
        if len(self.trunks[-1]) + len(branch) > builder.max_tokens:
            self._reopen(len(branch))
        return Prompt(len(self.trunks) - 1, len(self.trunks[-1]), branch)

    def advance(self, action: str, observation: str) -> None:
        """Append what was done and what came of it."""
        self.actions.append(action)
        self.observations.append(observation)
        if self._builder.layout == "paper":
            return
        encoded = self._builder.turn(len(self.actions), action, observation)
        self._turns.append(encoded)
        self.trunks[-1].extend(encoded)

    def _reopen(self, branch: int) -> None:
        """Begin a window with the head and the newest turns, half of the room filled.

        Half, so that a window lasts for several turns and its prefix is worth keeping.
        """
        room = self._builder.max_tokens - branch - len(self._head)
        newest: list[list[int]] = []
        for turn in reversed(self._turns):
            room_left = room - sum(map(len, newest)) - len(turn)
            if room_left < (room // 2 if newest else 0):
                break
            newest.insert(0, turn)
        if room < 0 or (self._turns and not newest):
            turns = len(self._turns[-1]) if self._turns else 0
            raise self._builder._over_budget(len(self._head) + turns + branch)
        self.trunks.append(self._head + [t for turn in newest for t in turn])
