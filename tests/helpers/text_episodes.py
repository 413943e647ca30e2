"""Records from transcripts: lines that begin with "> " are actions, others answers."""

from dataclasses import replace

from reskill_jax.creator.proposal import Creator, Evidence, Proposal
from reskill_jax.skills.episode_record import EpisodeRecord
from reskill_jax.skills.operations import Add
from reskill_jax.skills.skill import Skill, SkillBank

EMPTY = SkillBank().hash


def record(
    transcript: str = "",
    *,
    success: bool = False,
    goal: str = "put a egg in fridge.",
    task: str = "task",
    bank: str = EMPTY,
    step: int = 0,
    active_skills: tuple[str, ...] = (),
) -> EpisodeRecord:
    """Read a transcript; what stands before the first action is the first observation.

    The skills of `active_skills` are shown at every turn.
    """
    actions: list[str] = []
    observations = [""]
    for line in transcript.strip().splitlines():
        text = line.strip()
        if text.startswith("> "):
            actions.append(text[2:])
            observations.append("")
        else:
            observations[-1] = f"{observations[-1]}\n{text}".strip()
    return EpisodeRecord(
        task=task,
        kind="kind",
        goal=goal,
        bank=bank,
        step=step,
        success=success,
        actions=tuple(actions),
        observations=tuple(observations),
        active_skills=(active_skills,) * len(actions),
        valid=(True,) * len(actions),
    )


def acts(*actions: str, **options) -> EpisodeRecord:
    """Make a record of actions that all answer "ok"."""
    return record("start\n" + "\n".join(f"> {a}\nok" for a in actions), **options)


def many(template: EpisodeRecord, count: int, task: str) -> list[EpisodeRecord]:
    """Repeat a record over tasks `<task>-0`, `<task>-1`, ..."""
    return [replace(template, task=f"{task}-{i}") for i in range(count)]


def ask(creator: Creator, evidence: Evidence) -> Proposal:
    """Ask for a proposal that must exist."""
    proposal = creator.propose(evidence)
    assert proposal is not None
    return proposal


def added(proposal: Proposal) -> list[Skill]:
    """Return the skills that a bundle adds."""
    return [o.skill for o in proposal.operations if isinstance(o, Add)]
