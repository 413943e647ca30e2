"""The texts around what the simulated world says."""

from reskill_jax.environments.wording import Wording

_TASK = (
    "You act in a simulated house with a garden, where you do science experiments in "
    "text. Reach the goal, one command at a time. At each turn you get the forms of "
    "commands, in which OBJ stands for an object, and the names of the objects that "
    "you can use now. `focus on` tells what the task is about: focus on nothing else, "
    "a wrong object ends the episode. Where a command has several meanings you are "
    "asked which one you mean: answer with its number."
)
_FORM = (
    " Think in one sentence, then write your command between <action> and </action>.\n"
)
# A small model does as the example and the last line say and passes over the rest.
_EXAMPLE = (
    "\nExample of a turn:\nI look in the kitchen: <action>go to kitchen</action>\n\n"
)
_SKILLED = (
    " You also get skills that may help: follow those that apply and name them in your "
    "thought."
)

FULL = Wording(
    role=_TASK + _FORM + _EXAMPLE,
    role_with_skills=_TASK + _SKILLED + _FORM + _EXAMPLE,
    start="Goal: {goal}\n\nWhat you see: {observation}\n",
    turn="\nCommand {turn}: {action}\nResult: {observation}\n",
    actions="\nPossible answers: {actions}\n",
    hint="\n{hint}\n",
    request=(
        "\nTurn {turn} of at most {max_turns}. Write one sentence, then the next "
        "command between <action> and </action>."
    ),
)

BRIEF = Wording(
    role="",
    start="{observation}\n",
    turn="> {action}\n{observation}\n",
    actions="[{actions}]\n",
    hint="",
    skill="* {when_to_use} {action}\n",
    skills="{skills}",
    no_skill="",
    request="{goal}\n",  # a small policy hardly finds a goal that is far back
)

WORDINGS = {"full": FULL, "brief": BRIEF}
