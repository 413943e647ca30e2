"""Prompts as a trunk with branches.

Text that stays true for the rest of an episode (role, instructions, goal, then action
and observation of every turn) is the *trunk* and only grows. What matters for one turn
only (admissible actions, active skills, the request to act) is that turn's *branch*.
Segments are tokenised separately and once; the flat prompt of turn t is ``trunk[:n_t] +
branch_t``.

``layout="paper"`` renders the published order instead (counters before the history), in
which nothing is shared between turns: the trunk is empty and the branch is everything.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from reskill_jax.environments.action_format import Action
from reskill_jax.environments.protocol import Observation
from reskill_jax.environments.wording import Wording
from reskill_jax.policy.tokenizer import Tokenizer
from reskill_jax.rollout.context import Guide, Note
from reskill_jax.skills.skill import Skill, SkillBank

# What is not fixed text shares the rest of the budget: eighths for head, newest turn,
# notes, and list of actions with goal. Parts are as long as they like while all of them
# fit; where they do not, each shrinks to its share.
_PARTS, _HEAD, _TURN, _NOTES = 8, 3, 1, 3
_TAGGED = re.compile(r"(\w+)\[(.*)\]", re.DOTALL)  # see TaggedFormat
_NOTHING = 1 << 30  # "this part of the budget": no token
_ALL_CUT = (_NOTHING,) * 3
# What shrinks in the head, in this order: the usual actions go, then the opening, the
# observation and the goal are cut to these parts of the budget.
_HEAD_CUTS = (
    (8, 4, 4, True),
    (8, 4, 4, False),
    (8, 4, 8, False),
    (8, 4, 16, False),
    (8, 8, 16, False),
    (8, 16, 64, False),
    (16, 32, _NOTHING, False),
    (64, 64, _NOTHING, False),
    (*_ALL_CUT, False),
)


class Head(NamedTuple):
    """What every window of an episode begins with.

    Attributes:
        ids: its tokens.
        usual: the usual actions that are among them.
        whole: whether all of the guide's opening is.
    """

    ids: list[int]
    usual: tuple[str, ...]
    whole: bool


class _Fixed(NamedTuple):
    """Tokens of the fixed text of each part of a prompt."""

    head: int
    turn: int
    branch: int


@dataclass(frozen=True)
class _Nothing:
    """A guide that says nothing, to measure the fixed text with."""

    shows_skills: bool
    opening: str = ""
    tags: tuple[str, ...] = ()

    def notes(
        self, observation: Observation, previous_action: str | None
    ) -> Sequence[Skill | Note]:
        return ()

    async def answer(self, action: Action) -> str | None:
        return None


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

    Raises:
        ValueError: the fixed text leaves too little of the budget.
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

        self._check_budget()

    def usual(self, observation: Observation) -> tuple[str, ...]:
        """Return what the trunk lists of the first turn's actions: all or nothing."""
        actions = observation.actions or ()
        listed = ", ".join(actions)
        if not self.show_actions or self._cut(listed, 4) != listed:
            return ()
        return actions

    def head(
        self, goal: str, observation: str, guide: Guide, usual: Sequence[str] = ()
    ) -> Head:
        """Encode what every window of an episode begins with.

        What depends on the guide comes last where it can, so that rollouts of a group
        on different contexts share what comes before.
        """
        limit = self._fixed.head + self._room * _HEAD // _PARTS
        for goal_part, observation_part, opening_part, listed in _HEAD_CUTS:
            text = self._role(guide) + self.wording.start.format(
                goal=self._cut(goal, goal_part),
                observation=self._cut(observation, observation_part),
            )
            shown = tuple(usual) if listed else ()
            if shown:
                text += self.wording.usual.format(actions=", ".join(shown))
            if opening := self._cut(guide.opening, opening_part):
                text += f"\n{opening}\n"
            text = text.lstrip() if self.tokenizer.trims else text
            ids = list(self.tokenizer.user_prefix) + self.tokenizer.encode(text)
            if len(ids) <= limit:
                break
        return Head(ids, shown, opening == guide.opening)

    def turn(self, turn: int, action: str, observation: str) -> list[int]:
        """Encode one past turn, numbered from 1."""
        return self._turn(turn, action, observation, 16, 4)

    def short_turn(self, turn: int, action: str, observation: str) -> list[int]:
        """Encode one past turn within the share that is always there for one."""
        limit = self._fixed.turn + self._room * _TURN // _PARTS
        for parts in ((16, 8), (16, 16), (32, 32), (64, 64), (_NOTHING, _NOTHING)):
            ids = self._turn(turn, action, observation, *parts)
            if len(ids) <= limit:
                break
        return ids

    def _turn(
        self, turn: int, action: str, observation: str, parts: int, of_observation: int
    ) -> list[int]:
        text = self.wording.turn.format(
            turn=turn,
            action=self._action(action, parts),
            observation=self._cut(observation, of_observation),
        )
        return self.tokenizer.encode(text)

    def branch(
        self,
        turn: int,
        goal: str,
        observation: Observation,
        notes: Sequence[Skill | Note] | None,
        usual: Sequence[str] = (),
        limit: int | None = None,
    ) -> tuple[list[int], int]:
        """Encode what is said at one turn only, up to the start of the response.

        Args:
            turn: its number, from 1.
            goal: the task's.
            observation: the current one.
            notes: what the context says; None without a section for it.
            usual: actions that the trunk lists.
            limit: tokens that there is room for; None: not known yet. What is too long
                shrinks: first the list of actions, then notes go, the last one first,
                then the goal.

        Returns:
            The tokens, and how many of the notes are among them.
        """
        count = len(notes or ())
        for list_part, goal_part, fewer in (
            *((part, 8, 0) for part in (4, 8, 16, 64, _NOTHING)),
            *((_NOTHING, 8, k) for k in range(1, count + 1)),
            *((_NOTHING, part, count) for part in (16, 64, _NOTHING)),
        ):
            shown = None if notes is None else notes[: count - fewer]
            text = self._branch_text(
                turn, self._cut(goal, goal_part), observation, shown, usual, list_part
            )
            text = text.rstrip() if self.tokenizer.trims else text
            ids = self.tokenizer.encode(text) + list(self.tokenizer.assistant_prefix)
            if limit is None or len(ids) <= limit:
                break
        return ids, count - fewer

    def _branch_text(
        self,
        turn: int,
        goal: str,
        observation: Observation,
        notes: Sequence[Skill | Note] | None,
        usual: Sequence[str],
        list_part: int,
    ) -> str:
        wording = self.wording
        text = ""
        if self.show_actions and observation.actions is not None:
            listed = list_actions(wording, observation.actions, usual)
            text += wording.actions.format(actions=self._cut(listed, list_part))
        elif self.show_actions and observation.hint:
            text += wording.hint.format(hint=self._cut(observation.hint, list_part))
        if notes is not None:
            shown = "".join(render_note(wording, note) for note in notes)
            text += wording.skills.format(skills=shown or wording.no_skill)
        return text + wording.request.format(
            turn=turn, max_turns=self.max_turns, goal=goal
        )

    def paper(
        self,
        goal: str,
        observations: Sequence[str],
        actions: Sequence[str],
        observation: Observation,
        guide: Guide,
        notes: Sequence[Skill | Note] | None,
    ) -> tuple[list[int], int]:
        """Encode the published order: counters, history, current state, request.

        Oldest turns go first when the prompt would pass its budget; then the other
        parts shrink as in the tree layout.

        Returns:
            The tokens, and how many of the notes are among them.
        """
        played, now = len(actions), observations[-1]
        number = played + 1
        branch, shown_notes = self.branch(number, goal, observation, notes)
        turns = list(zip(observations, actions, strict=False))
        for shown in range(min(played, self.history), -1, -1):
            past = turns[played - shown :]
            head = self._paper_head(goal, past, played, now, guide, (8, 4, 4))
            if len(head) + len(branch) <= self.max_tokens:
                return head + branch, shown_notes
        limit = self._fixed.head + self._room * (_HEAD + _TURN) // _PARTS
        for parts in (
            (8, 4, 8),
            (8, 4, 16),
            (8, 8, 16),
            (16, 16, 64),
            (64, 64, 64),
            _ALL_CUT,
        ):
            head = self._paper_head(goal, (), played, now, guide, parts)
            if len(head) <= limit:
                break
        branch, shown_notes = self.branch(
            number, goal, observation, notes, limit=self.max_tokens - len(head)
        )
        return head + branch, shown_notes

    def _paper_head(
        self,
        goal: str,
        past: Sequence[tuple[str, str]],
        played: int,
        now: str,
        guide: Guide,
        parts: tuple[int, int, int],
    ) -> list[int]:
        """Encode all that comes before the branch, with these of the turns played."""
        goal_part, observation_part, opening_part = parts
        first = played - len(past) + 1
        text = f"{self._role(guide)}Goal: {self._cut(goal, goal_part)}\n"
        if opening := self._cut(guide.opening, opening_part):
            text += f"\n{opening}\n"
        if played:
            text += f"Turns so far: {played}. The last {len(past)}:\n"
        text += "".join(
            f"[Observation {i}: {self._cut(o, 4)} Action {i}: {self._action(a)}]\n"
            for i, (o, a) in enumerate(past, first)
        )
        return [
            *self.tokenizer.user_prefix,
            *self.tokenizer.encode(text),
            *self.tokenizer.encode(f"\nNow: {self._cut(now, observation_part)}\n"),
        ]

    def notes_limit(self) -> int:
        """Return the tokens of notes that there is room for at every turn."""
        return self._room * _NOTES // _PARTS

    def tokens_of(self, notes: Iterable[Skill | Note]) -> int:
        """Count the tokens of notes that are shown together."""
        shown = "".join(render_note(self.wording, note) for note in notes)
        return len(self.tokenizer.encode(shown)) if shown else 0

    def bank_problem(self, bank: SkillBank) -> str:
        """Say why a bank cannot be shown whole at every turn; "" where it can.

        Counted is the largest set of skills that may be active together: those of the
        first turn, or those that any action may trigger later.
        """
        first = [s for s in bank.skills if s.trigger.kind != "action_pattern"]
        later = [s for s in bank.skills if s.trigger.kind != "beginning"]
        tokens = max(self.tokens_of(first), self.tokens_of(later))
        if tokens <= self.notes_limit():
            return ""
        return (
            f"skills that may be shown together take {tokens} tokens, and a prompt of "
            f"max_tokens={self.max_tokens} has room for {self.notes_limit()}: shorten "
            "them, show fewer, or raise the budget"
        )

    def _role(self, guide: Guide) -> str:
        with_skills = guide.shows_skills and self.wording.role_with_skills
        return with_skills or self.wording.role

    def _action(self, action: str, parts: int = 1) -> str:
        """Write a past action, bounded like `_cut`."""
        tagged = _TAGGED.fullmatch(action) if self.wording.tagged else None
        if tagged is None:
            return self._cut(action, parts)
        tag, text = tagged.groups()
        return self.wording.tagged.format(tag=tag, text=self._cut(text, parts))

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
        return self.tokenizer.decode(ids[: limit - 2]) + " ..." if limit > 3 else ""

    def _check_budget(self) -> None:
        """Measure the fixed text; what is left is shared by what is not fixed.

        Raises:
            ValueError: the fixed text takes more than three quarters of the budget.
        """
        nothing = Observation("", (), hint="")
        guides = (_Nothing(False), _Nothing(True))
        last = self.max_turns
        self._fixed, self._room = _Fixed(0, 0, 0), 0
        heads = [self.head("", "", guide).ids for guide in guides]
        if self.layout == "paper":
            heads = [
                self._paper_head("", (), last, "", guide, _ALL_CUT) for guide in guides
            ]
        self._fixed = _Fixed(
            max(map(len, heads)),
            len(self._turn(last, "", "", _NOTHING, _NOTHING)),
            len(self.branch(last, "", nothing, (), limit=0)[0]),
        )
        self._room = self.max_tokens - sum(self._fixed)
        if self._room < self.max_tokens // 4:
            raise ValueError(
                f"max_tokens={self.max_tokens} is too small: the fixed text of a "
                f"prompt takes {sum(self._fixed)} tokens: set it to "
                f"{3 * sum(self._fixed) // 2} or more, or choose a shorter wording"
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
