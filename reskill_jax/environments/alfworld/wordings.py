"""The texts around what household games say."""

from reskill_jax.environments.wording import Wording

_TASK = (
    "You act in a text world and must reach a goal, one command at a time. At each "
    "turn you get the commands that are possible now"
)
# A small model does as the example and the last line say and passes over the rest.
_EXAMPLE = (
    "\nExample of a turn:\nThe apple may be in the fridge. "
    "<action>go to fridge 1</action>\n\n"
)

FULL = Wording(
    role=(
        f"{_TASK}. Think in one sentence and end with your command between <action> "
        f"and </action>.\n{_EXAMPLE}"
    ),
    role_with_skills=(
        f"{_TASK}, and skills that may help: read when each one applies and follow "
        "those that do. Think in one sentence, name the skill that you apply if there "
        "is one, and end with your command between <action> and </action>.\n"
        f"{_EXAMPLE}"
    ),
    start="Goal: {goal}\n\nWhat you see: {observation}\n",
    usual="\nUsual commands: {actions}\n",
    turn="\nCommand {turn}: {action}\nWhat you see: {observation}\n",
    actions="\nPossible commands: {actions}\n",
    all_usual="all usual ones",
    but=" but {actions}",
    and_also="; also {actions}",
    skill="- {name}. When: {when_to_use} Then: {action}{example}\n",
    skills="\nSkills:\n{skills}",
    no_skill="(no skill applies to this turn)\n",
    request=(
        "\nTurn {turn} of at most {max_turns}. Write one sentence, then one of the "
        "possible commands between <action> and </action>."
    ),
)

BRIEF = Wording(
    role="",
    start="{observation}\n",
    usual="[{actions}]\n",
    turn="> {action}\n{observation}\n",
    actions="[{actions}]\n",
    all_usual="as above",
    but=", not {actions}",
    and_also="; {actions}",
    skill="* {when_to_use} {action}\n",
    skills="{skills}",
    no_skill="",
    request="{goal}\n",  # a small policy hardly finds a goal that is far back
)

WORDINGS = {"full": FULL, "brief": BRIEF}
