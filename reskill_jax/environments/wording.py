"""The fixed text around what an environment says."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Wording:
    """Templates of a prompt's parts; the defaults suit any text environment.

    Attributes:
        role: opening of the trunk: what never changes, the form of responses included.
        role_with_skills: the same where the context shows skills at some turns; empty:
            `role`.
        start: the goal and the first observation.
        usual: the admissible actions of the first turn, end of the opening.
        turn: one action and the observation that followed.
        tagged: how `turn` writes an action that is ``tag[text]``, so that the agent
            reads actions in the form that it is asked for; empty: as it is.
        actions: the admissible actions of a turn.
        hint: what stands there where there is no list.
        all_usual, but, and_also: say which actions are possible by naming those of
            the usual ones that are not, and those that are not usual.
        skill: one active skill.
        skills: the section around the active skills.
        no_skill: stands in the section when none is active.
        request: the last line, asking for a response; may repeat the goal.
    """

    role: str
    role_with_skills: str = ""
    start: str = "Task: {goal}\n\n{observation}\n"
    usual: str = "\nUsual actions: {actions}\n"
    turn: str = "\nAction {turn}: {action}\nResult: {observation}\n"
    tagged: str = ""
    actions: str = "\nPossible actions: {actions}\n"
    hint: str = "\n{hint}\n"
    all_usual: str = "all usual ones"
    but: str = " but {actions}"
    and_also: str = "; also {actions}"
    skill: str = "- {name}. When: {when_to_use} Then: {action}{example}\n"
    skills: str = "\nSkills:\n{skills}"
    no_skill: str = "(no skill applies to this turn)\n"
    request: str = "\nYour turn {turn} of at most {max_turns}."
