"""A skill in several wordings of one meaning, as plain data.

Rule tables belong to environments; the offline creator writes skills from them.
"""

from dataclasses import dataclass

from reskill_jax.skills.assertions import Assertion
from reskill_jax.skills.skill import Skill, Trigger


@dataclass(frozen=True)
class Rule:
    """A skill in several wordings.

    Attributes:
        name: the skill's name.
        description: one line for the catalogue.
        wordings: pairs (when_to_use, action) that mean the same.
        pattern: after which actions it matters; at every turn when empty.
        example: at most two lines, may be empty.
        assertions: ids of those whose failure makes the offline creator propose it, the
            likeliest first; a rule without any is never proposed.
    """

    name: str
    description: str
    wordings: tuple[tuple[str, str], ...]
    pattern: str = ""
    example: str = ""
    assertions: tuple[str, ...] = ()

    def skill(self, wording: int = 0, *, general: bool = False) -> Skill:
        """Write the rule as a skill.

        Args:
            wording: which wording, counted modulo their number.
            general: show it at every turn even if the rule has a pattern.
        """
        when_to_use, action = self.wordings[wording % len(self.wordings)]
        narrow = self.pattern and not general
        trigger = Trigger("action_pattern", self.pattern) if narrow else Trigger()
        return Skill(
            name=self.name,
            description=self.description,
            when_to_use=when_to_use,
            action=action,
            trigger=trigger,
            example=self.example,
        )


@dataclass(frozen=True)
class RuleTable:
    """What an environment tells the offline creator.

    Attributes:
        rules: skills that it may propose.
        assertions: checks that episodes are graded by, in the order of blame.
        patterns: of actions that the assertions cover; checks are mined from others.
    """

    rules: tuple[Rule, ...] = ()
    assertions: tuple[Assertion, ...] = ()
    patterns: tuple[str, ...] = ()
