"""The nine checks that grade an episode without a language model (paper, section 3.4).

They look at parsed actions and at the environment's own words, ignoring case, with
the matcher that triggers use. A check answers True, False, or None: "not applicable".
Parameters are checked when a check is made: a bad pattern is an error, never a failing
grade.
"""

from collections.abc import Sequence
from typing import Any

import msgspec
import re2

from reskill_jax.skills.episode_record import EpisodeRecord
from reskill_jax.skills.skill import matches


class ActionExists(msgspec.Struct, frozen=True, tag="action_exists"):
    """Some action matches `pattern`."""

    pattern: str

    def __post_init__(self) -> None:
        """Check the parameters."""
        require_pattern("action_exists.pattern", self.pattern)

    def grade(self, record: EpisodeRecord) -> bool | None:
        """Grade an episode; False for an episode without actions."""
        return _first(self.pattern, record) is not None


class ActionNotExists(msgspec.Struct, frozen=True, tag="action_not_exists"):
    """No action matches `pattern`."""

    pattern: str

    def __post_init__(self) -> None:
        """Check the parameters."""
        require_pattern("action_not_exists.pattern", self.pattern)

    def grade(self, record: EpisodeRecord) -> bool | None:
        """Grade an episode; True for an episode without actions."""
        return _first(self.pattern, record) is None


class ActionBefore(msgspec.Struct, frozen=True, tag="action_before"):
    """The first match of `first` comes before the first match of `second`.

    Not applicable where `second` never occurs: an episode that never got as far as
    placing says nothing about what should come before placing. One action that matches
    both is not before itself.
    """

    first: str
    second: str

    def __post_init__(self) -> None:
        """Check the parameters."""
        require_pattern("action_before.first", self.first)
        require_pattern("action_before.second", self.second)

    def grade(self, record: EpisodeRecord) -> bool | None:
        """Grade an episode."""
        second = _first(self.second, record)
        if second is None:
            return None
        first = _first(self.first, record)
        return first is not None and first < second


class FinalAction(msgspec.Struct, frozen=True, tag="final_action"):
    """The last action matches `pattern`; not applicable without actions."""

    pattern: str

    def __post_init__(self) -> None:
        """Check the parameters."""
        require_pattern("final_action.pattern", self.pattern)

    def grade(self, record: EpisodeRecord) -> bool | None:
        """Grade an episode."""
        if not record.actions:
            return None
        return matches(self.pattern, record.actions[-1])


class NoConsecutiveRepeat(msgspec.Struct, frozen=True, tag="no_consecutive_repeat"):
    """Among the actions that match `pattern`, none is done `n` times within `window`.

    The default, `n` = 2 over all actions, is "never the same action twice in a row".
    With a pattern the actions between are skipped; with a window larger than `n` the
    check also sees going in circles. Equality ignores case.

    Attributes:
        n: how often is too often, at least 2.
        pattern: which actions count; all of them when empty.
        window: how many successive such actions are looked at, `n` when 0.
    """

    n: int = 2
    pattern: str = ""
    window: int = 0

    def __post_init__(self) -> None:
        """Check the parameters."""
        if self.pattern:
            require_pattern("no_consecutive_repeat.pattern", self.pattern)
        _require_count("no_consecutive_repeat.n", self.n, least=2)
        if self.window != 0:
            _require_count("no_consecutive_repeat.window", self.window, least=self.n)

    def grade(self, record: EpisodeRecord) -> bool | None:
        """Grade an episode; True for an episode without actions."""
        actions = [a.casefold() for a in record.actions if matches(self.pattern, a)]
        window = self.window or self.n
        return not any(
            actions[max(0, end - window) : end].count(actions[end - 1]) >= self.n
            for end in range(1, len(actions) + 1)
        )


class MinSteps(msgspec.Struct, frozen=True, tag="min_steps"):
    """The episode has at least `n` actions."""

    n: int

    def __post_init__(self) -> None:
        """Check the parameters."""
        _require_count("min_steps.n", self.n, least=1)

    def grade(self, record: EpisodeRecord) -> bool | None:
        """Grade an episode."""
        return len(record.actions) >= self.n


class MaxSteps(msgspec.Struct, frozen=True, tag="max_steps"):
    """The episode has at most `n` actions."""

    n: int

    def __post_init__(self) -> None:
        """Check the parameters."""
        _require_count("max_steps.n", self.n, least=1)

    def grade(self, record: EpisodeRecord) -> bool | None:
        """Grade an episode."""
        return len(record.actions) <= self.n


class ActionCount(msgspec.Struct, frozen=True, tag="action_count"):
    """At least `min` and, when given, at most `max` actions match `pattern`."""

    pattern: str
    min: int = 0
    max: int | None = None

    def __post_init__(self) -> None:
        """Check the parameters."""
        require_pattern("action_count.pattern", self.pattern)
        _require_count("action_count.min", self.min, least=0)
        if self.max is not None:
            _require_count("action_count.max", self.max, least=self.min)
        elif self.min == 0:
            raise ValueError("action_count: min=0 and no max always passes: give one")

    def grade(self, record: EpisodeRecord) -> bool | None:
        """Grade an episode."""
        count = sum(matches(self.pattern, action) for action in record.actions)
        return self.min <= count and (self.max is None or count <= self.max)


class ObservationContains(msgspec.Struct, frozen=True, tag="observation_contains"):
    """Some observation matches `pattern`.

    With `after_action`, only observations that answer an action matching it count, and
    the check is not applicable where there is none.
    """

    pattern: str
    after_action: str = ""

    def __post_init__(self) -> None:
        """Check the parameters."""
        require_pattern("observation_contains.pattern", self.pattern)
        if self.after_action:
            require_pattern("observation_contains.after_action", self.after_action)

    def grade(self, record: EpisodeRecord) -> bool | None:
        """Grade an episode."""
        observations: Sequence[str] = record.observations
        if self.after_action:
            # observations[t] precedes actions[t], so observations[t + 1] answers it.
            answers = zip(record.actions, record.observations[1:], strict=False)
            observations = [o for a, o in answers if matches(self.after_action, a)]
            if not observations:
                return None
        return any(matches(self.pattern, text) for text in observations)


Check = (
    ActionExists
    | ActionNotExists
    | ActionBefore
    | FinalAction
    | NoConsecutiveRepeat
    | MinSteps
    | MaxSteps
    | ActionCount
    | ObservationContains
)


def name_of(check: Check) -> str:
    """Return the name of a check's kind, e.g. ``action_exists``."""
    return str(type(check).__struct_config__.tag)


def parameters(check: Check) -> dict[str, Any]:
    """Return a check's parameters by name."""
    return msgspec.structs.asdict(check)


def require_pattern(where: str, pattern: str) -> None:
    """Check that a pattern is valid RE2, and not blank.

    Args:
        where: name of the parameter, for the message.
        pattern: its value.

    Raises:
        ValueError: it is blank, or not valid RE2.
    """
    if not pattern.strip():
        raise ValueError(f"{where}={pattern!r}: give a pattern")
    options = re2.Options()
    options.log_errors = False
    try:
        re2.compile("(?i)" + pattern, options)
    except (re2.error, UnicodeEncodeError) as error:
        raise ValueError(f"{where}={pattern!r} is not valid RE2: {error}") from error


def _require_count(where: str, value: int, least: int) -> None:
    if value < least:
        raise ValueError(f"{where}={value}: must be {least} or more")


def _first(pattern: str, record: EpisodeRecord) -> int | None:
    """Return the index of the first action that matches, or None."""
    return next((i for i, a in enumerate(record.actions) if matches(pattern, a)), None)
