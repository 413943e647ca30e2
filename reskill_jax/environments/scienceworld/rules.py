"""Rules for experiments in text, in fixed wordings, and the assertions behind them.

The `offline` creator writes its skills from the table; a laboratory's demonstrations
obey them. As in every table of this package a rule has several wordings of one meaning,
and the comment above it states the meaning, of those rules that a laboratory uses so
that a program can decide it. Its terms:

- *thing*: what the task is about; *box*: the coloured box that the goal names, *room*:
  where that box is.
- *place*: where the thing is: outside for animals, the greenhouse for plants, the room
  for what does not live.
- *focused*: `focus on` was said of the thing; *held*: it was picked up, and not put
  down since.

Where the condition does not hold the rule is silent and the agent does as it likes.
"""

from reskill_jax.skills.assertions import Assertion
from reskill_jax.skills.checks import (
    ActionBefore,
    ActionCount,
    ActionExists,
    ActionNotExists,
    FinalAction,
    NoConsecutiveRepeat,
)
from reskill_jax.skills.rule import Rule, RuleTable

TRAVEL = r"^(go|teleport) "
FOCUS = r"^focus on "
PICK = r"^pick up "
MOVE = r"^(move|pour|put) "
CONNECT = r"^connect "
PATTERNS = (TRAVEL, FOCUS, PICK, MOVE, CONNECT)

_WANTS_FOCUS = r"\bfocus\b"
_WANTS_BOX = r"\bbox\b"
_WANTS_CIRCUIT = r"\b(conductive|turn on the)\b"
_FOCUSED = ActionExists(FOCUS)
_PICKED = ActionExists(PICK)

# The order of blame: what an episode did last is judged first.
ASSERTIONS: tuple[Assertion, ...] = (
    Assertion(FinalAction(MOVE), "delivers", _WANTS_BOX, _PICKED),
    Assertion(ActionCount(TRAVEL, min=2), "carries", _WANTS_BOX, _PICKED),
    Assertion(ActionBefore(FOCUS, MOVE), "focuses-in-time", _WANTS_FOCUS),
    Assertion(_PICKED, "picks-up", _WANTS_BOX, _FOCUSED),
    Assertion(ActionCount(CONNECT, min=3), "connects", _WANTS_CIRCUIT),
    Assertion(_FOCUSED, "focuses", _WANTS_FOCUS, ActionExists(TRAVEL)),
    Assertion(ActionExists(TRAVEL), "travels", given=ActionNotExists(FOCUS)),
    Assertion(NoConsecutiveRepeat(2), "does-not-repeat"),
)

HELPFUL: tuple[Rule, ...] = (
    # The thing is not focused and the agent is not at its place: teleport there.
    Rule(
        "go-where-it-is",
        "Go to the place of the thing before anything else.",
        (
            (
                "The thing that the task wants is not here.",
                "Teleport outside for animals, to the greenhouse for plants.",
            ),
            (
                "You do not see what the task asks for.",
                "Teleport to its place: animals outside, plants in the greenhouse.",
            ),
            (
                "You have not found the thing yet.",
                "Do not search. Teleport to where such things are.",
            ),
        ),
        assertions=("travels",),
    ),
    # The thing is at the agent's place and not focused: focus on it.
    Rule(
        "focus-first",
        "Focus on the thing before it is touched.",
        (
            ("The thing is in front of you.", "Focus on it before you touch it."),
            (
                "You are where the thing is.",
                "Focus on it now, then do the rest.",
            ),
            ("You see what the task wants.", "First of all focus on it."),
        ),
        pattern=r"^(go|teleport|look) .*",
        assertions=("focuses-in-time", "focuses"),
    ),
    # The thing is focused, not held, at the agent's place, and the room is another one:
    # pick it up.
    Rule(
        "pick-it-up",
        "Pick the thing up after focusing on it.",
        (
            ("You have focused on the thing.", "Pick it up and take it along."),
            ("The thing must go to another room.", "Pick it up before you leave."),
            ("Your focus is on the right thing.", "Do not go without it. Pick it up."),
        ),
        pattern=r"^focus on .*",
        assertions=("picks-up",),
    ),
    # The thing is focused and held and the agent is not in the room: teleport there.
    Rule(
        "carry-it-to-the-room",
        "Carry the thing to the room of the box.",
        (
            ("You hold the thing.", "Teleport to the room that the task names."),
            (
                "The thing is in your inventory.",
                "Go straight to the room of the box.",
            ),
            ("You have picked it up.", "Take it to the room with the box."),
        ),
        pattern=r"^pick up .*",
        assertions=("carries",),
    ),
    # The thing is focused, the agent is in the room, and holds the thing or the room is
    # its place: move it to the box.
    Rule(
        "move-it-to-the-box",
        "Move the thing to the box that the task names.",
        (
            (
                "You are in the room of the box with the thing.",
                "Move the thing to the box.",
            ),
            ("The thing is where the box is.", "Put it into that box now."),
            ("The box that the task names is here.", "Move the focused thing to it."),
        ),
        pattern=r"^(go|teleport|focus) .*",
        assertions=("delivers", "carries"),
    ),
    Rule(
        "connect-the-circuit",
        "Build a closed circuit, terminal by terminal.",
        (
            (
                "The task needs an electric circuit.",
                "Connect both sides of the battery, the wires and the component.",
            ),
            (
                "Something must be powered or tested.",
                "Connect terminal to terminal until the circuit is closed.",
            ),
            (
                "You have wires and a source of power.",
                "Connect them with the component, one terminal at a time.",
            ),
        ),
        example="connect battery anode to red wire terminal 1",
        assertions=("connects",),
    ),
    Rule(
        "do-something-else",
        "Change a command that has led to nothing.",
        (
            (
                "You have just done the same twice.",
                "Choose another form of command or another object.",
            ),
            (
                "A command did not help.",
                "Do not repeat it. Take a form and names from the lists.",
            ),
            ("Nothing has changed.", "Do something that you have not tried yet."),
        ),
        assertions=("does-not-repeat",),
    ),
)

HARMFUL: tuple[Rule, ...] = (
    # The last action is not `look around`: do `look around`.
    Rule(
        "look-around-again",
        "Look around after every action.",
        (
            ("You have just done something.", "Look around again."),
            ("You are about to choose a command.", "Look around once more before it."),
            ("Your last command was not to look.", "Look around you now."),
        ),
    ),
    # The last action is not `inventory`: do `inventory`.
    Rule(
        "check-the-inventory",
        "Check the inventory after every action.",
        (
            ("You have just done something.", "Check your inventory."),
            ("You are not sure what you carry.", "List your inventory now."),
            ("Your last command was not the inventory.", "Check what you hold."),
        ),
    ),
    # The agent is not in the hallway: teleport there.
    Rule(
        "return-to-the-hallway",
        "Return to the hallway before every step.",
        (
            ("You are in any other room.", "Return to the hallway."),
            ("You have left the hallway.", "Teleport back to the hallway first."),
            ("You are not in the hallway.", "Go there before you do anything."),
        ),
    ),
    # The last action is not `wait1`: do `wait1`.
    Rule(
        "wait-and-see",
        "Wait after every action.",
        (
            ("You have just done something.", "Wait and see what happens."),
            ("Your last command was not to wait.", "Wait one step now."),
            ("You are about to choose a command.", "Wait before you do."),
        ),
    ),
    # The thing is held: put it down.
    Rule(
        "put-it-down-here",
        "Put down what you hold where you are.",
        (
            ("You hold something.", "Put it down right here."),
            ("There is something in your inventory.", "Leave it where you are."),
            ("You carry the thing.", "Put it down now."),
        ),
    ),
)

TABLE = RuleTable(rules=HELPFUL, assertions=ASSERTIONS, patterns=PATTERNS)
