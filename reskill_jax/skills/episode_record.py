"""What is kept of an episode as evidence: text, without tokens."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class EpisodeRecord:
    """One episode in words; what has a default, other systems' recordings may lack.

    Attributes:
        task: id of the task.
        kind: task type.
        goal: the task's goal sentence.
        bank: content hash of the skill bank it ran on.
        step: training step that played it.
        success: whether the goal was reached.
        actions: parsed actions, in order; never the model's reasoning.
        observations: what the environment said before each action and, when known,
            after the last one.
        active_skills: names of the skills shown at each turn.
        valid: whether each response was well formed and its action admissible.
    """

    task: str
    kind: str = ""
    goal: str = ""
    bank: str = ""
    step: int = 0
    success: bool
    actions: tuple[str, ...]
    observations: tuple[str, ...] = ()
    active_skills: tuple[tuple[str, ...], ...] = ()
    valid: tuple[bool, ...] = ()

    def skills(self) -> frozenset[str]:
        """Return the names of the skills that fired at some turn."""
        return frozenset(name for names in self.active_skills for name in names)
