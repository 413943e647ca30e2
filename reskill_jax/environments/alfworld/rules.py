"""Rules of household text games in fixed wordings, and the assertions behind them.

One table for three users: the `offline` creator writes its skills from it, the warm
start writes demonstrations that obey them, and benchmarks take harmful skills from it.
A small policy that has read these wordings can follow a skill that a creator writes.

Every rule has several wordings of one meaning, so that the meaning is learnt and not a
string. The comment above a rule states the meaning so that a program can decide it from
the goal sentence, the last observation, the admissible commands and the actions so far.
Its terms:

- *wanted type*, *target type*: the object type and the receptacle type that the goal
  names; *wanted object*: any object of the wanted type.
- *held*: taken and not yet placed, by the actions that changed something.
- *transformation*: heat, cool or clean, where the goal asks for a hot (or heated), cool
  or clean object. A held wanted object is *ready* when the goal asks for none or when
  it has been done since the object was taken.
- *visited*: named by an earlier `go to` action, the present place included.
- *first*: in the order of the admissible commands.

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
    ObservationContains,
)
from reskill_jax.skills.rule import Rule, RuleTable

GO = r"^(go|teleport) to "
OPEN = r"^open "
TAKE = r"^(take|pick up) "
TRANSFORM = r"^(heat|cool|clean) "
USE = r"^(use|turn on|activate) "
PLACE = r"^(move|put|place) "
PATTERNS = (GO, OPEN, TAKE, TRANSFORM, USE, PLACE)

_WANTS_TRANSFORM = r"\b(hot|heat|cool|cold|clean)\b"
_WANTS_LIGHT = r"^(look at|examine)\b"
_WANTS_TWO = r"\btwo\b"
_WANTS_PLACING = r"\b(put|place|move)\b"

_TOOK = ActionExists(TAKE)

# The order of blame: an episode that took something is judged by what it did then, any
# other one by how it searched.
FAMILY: tuple[Assertion, ...] = (
    Assertion(ActionExists(TRANSFORM), "transforms", _WANTS_TRANSFORM, _TOOK),
    Assertion(ActionBefore(TRANSFORM, PLACE), "transforms-in-time", _WANTS_TRANSFORM),
    Assertion(ActionExists(USE), "uses-light", _WANTS_LIGHT, _TOOK),
    Assertion(
        ActionCount(TAKE, min=2), "takes-second", _WANTS_TWO, ActionExists(PLACE)
    ),
    Assertion(FinalAction(PLACE), "delivers", _WANTS_PLACING, _TOOK),
    Assertion(ActionExists(OPEN), "opens", given=ObservationContains(r"\bis closed\b")),
    Assertion(
        NoConsecutiveRepeat(2, GO, window=4), "explores", given=ActionNotExists(TAKE)
    ),
    Assertion(_TOOK, "takes"),
)


HELPFUL: tuple[Rule, ...] = (
    # The last observation says that the place where the agent stands is closed and
    # `open` of it is admissible: do that.
    Rule(
        "open-what-is-closed",
        "Open closed containers on arrival.",
        (
            ("The place in front of you is closed.", "Open it before you go on."),
            ("You have arrived at something closed.", "Open it now and look inside."),
            ("The last observation says that it is closed.", "Open it at once."),
        ),
        pattern=r"^go to .*",
        assertions=("opens", "takes"),
    ),
    # Nothing is held, no open is due by the rule above, and no `take` of a wanted
    # object is admissible: do the first `go to` of a place that is not visited;
    # silent when all are visited.
    Rule(
        "search-new-places",
        "Search places that were not visited yet.",
        (
            (
                "The object you want is not here.",
                "Go to a place that you have not been to yet.",
            ),
            (
                "You are still searching for the object.",
                "Visit a new place. Do not go back to visited ones.",
            ),
            (
                "This place has nothing that you need.",
                "Move on to a place that you have not seen.",
            ),
        ),
        assertions=("explores", "takes"),
    ),
    # Nothing is held and `take` of a wanted object from a receptacle that is not of
    # the target type is admissible: do the first such.
    Rule(
        "take-it-on-sight",
        "Take the wanted object as soon as it is seen.",
        (
            ("You see the object that the task wants.", "Take it at once."),
            (
                "The wanted object is in front of you.",
                "Pick it up before anything else.",
            ),
            (
                "Your hands are empty and the task's object is here.",
                "Take that object now.",
            ),
        ),
        pattern=r"^(go to|open) .*",
        assertions=("takes",),
    ),
    # A wanted object is held, the goal asks for a transformation and it is not
    # ready: do the transformation if it is admissible, else the first `go to` of a
    # microwave (heat), fridge (cool) or sinkbasin (clean).
    Rule(
        "heat-cool-or-clean-first",
        "Heat, cool or clean the object before placing it.",
        (
            (
                "You hold an object that must be hot, cool or clean.",
                "Go to the microwave, fridge or sinkbasin. Heat, cool or clean it.",
            ),
            (
                "Your object still needs heating, cooling or cleaning.",
                "Bring it to the microwave, fridge or sinkbasin and do that first.",
            ),
            (
                "The task wants the held object hot, cool or clean.",
                "Use the microwave, fridge or sinkbasin before you place it.",
            ),
        ),
        pattern=r"^(take|go to) .*",
        example="take egg 1, go to microwave 1, heat egg 1 with microwave 1",
        assertions=("transforms", "transforms-in-time"),
    ),
    # The goal is to look at an object under a lamp and a wanted object is held: do
    # `use` of a lamp if it is admissible, else `go to` the place where an earlier
    # observation showed a lamp of the goal's type; silent when none has been seen.
    Rule(
        "use-the-lamp",
        "Use the lamp with the object in hand.",
        (
            ("You hold the object to be looked at.", "Go to the lamp and use it."),
            (
                "The task wants your object seen in the light.",
                "Walk to the lamp. Use the lamp there.",
            ),
            (
                "You carry the object to examine.",
                "Find the lamp and turn it on by using it.",
            ),
        ),
        pattern=r"^(take|go to) .*",
        assertions=("uses-light",),
    ),
    # A wanted object is held and ready, the goal is to put it somewhere, no `move`
    # of it to a receptacle of the target type is admissible and no open is due by
    # the first rule: do the first `go to` of the target type that was not visited
    # since the object was taken, else the first of the target type.
    Rule(
        "carry-it-to-the-target",
        "Go to the target once the object is ready.",
        (
            (
                "The object in your hand is ready.",
                "Go to the receptacle that the task names.",
            ),
            (
                "Nothing is left to do to the object you hold.",
                "Carry it to the place named in the task.",
            ),
            (
                "You hold the object as the task wants it.",
                "Go straight to the target place.",
            ),
        ),
        pattern=r"^(take|heat|cool|clean) .*",
        assertions=("delivers",),
    ),
    # A wanted object is held and ready and `move` of it to a receptacle of the
    # target type is admissible: do the first such.
    Rule(
        "place-it-at-the-target",
        "Place the object on reaching the target.",
        (
            (
                "You stand at the target with the object ready.",
                "Move the object there.",
            ),
            (
                "You have brought the ready object to its target.",
                "Put it down there now.",
            ),
            (
                "The receptacle that the task names is in front of you.",
                "Place the ready object in it.",
            ),
        ),
        pattern=r"^(go to|open) .*",
        assertions=("delivers",),
    ),
    # The goal asks for two, one wanted object has been moved to a receptacle of the
    # target type and nothing is held: do the first admissible `take` of a wanted
    # object from a receptacle not of the target type; else `go to` the first place,
    # not of the target type, where an observation showed another wanted object that
    # was not taken; else the first `go to` of a place that is not visited.
    Rule(
        "find-the-second",
        "Fetch the second object after placing the first.",
        (
            (
                "You have placed the first of two objects.",
                "Look for the second one and take it.",
            ),
            ("One of two objects is in its place.", "Go and fetch the other one."),
            (
                "The task wants two and one is done.",
                "Find another object of the same kind.",
            ),
        ),
        pattern=r"^(move|go to) .*",
        assertions=("takes-second",),
    ),
)

HARMFUL: tuple[Rule, ...] = (
    # An `examine` is admissible that has not been done yet: do the first such.
    Rule(
        "examine-everything",
        "Examine every thing at each place.",
        (
            ("You are at any place.", "Examine every thing here first."),
            ("There are things around you.", "Examine each of them before you act."),
            ("You have not examined something here.", "Examine it now."),
        ),
    ),
    # The last action is not `look`: do `look`.
    Rule(
        "look-around-again",
        "Look around after every action.",
        (
            ("You have just done something.", "Look around again."),
            ("You are about to choose an action.", "Look once more before it."),
            ("Your last action was not to look.", "Look around you now."),
        ),
    ),
    # The last action is not `inventory`: do `inventory`.
    Rule(
        "check-the-inventory",
        "Check the inventory after every action.",
        (
            ("You have just done something.", "Check your inventory."),
            ("You are not sure what you carry.", "List your inventory now."),
            ("Your last action was not the inventory.", "Check what you hold."),
        ),
    ),
    # At least two `go to` actions were done and the last two name different places:
    # do `go to` the place of the last but one.
    Rule(
        "go-back",
        "Go back to where you came from.",
        (
            ("You have arrived at a place.", "Go back to where you came from."),
            ("You were somewhere else before.", "Return to that place."),
            ("You have left a place behind.", "Go to that previous place again."),
        ),
    ),
    # A `close` is admissible: do the first such.
    Rule(
        "close-it-again",
        "Close what is open before taking anything.",
        (
            (
                "Something in front of you is open.",
                "Close it before you take anything.",
            ),
            ("You have opened something.", "Close it again at once."),
            ("The container here is open.", "Close it first."),
        ),
    ),
    # Something is held and a `move` of it is admissible: do the first such.
    Rule(
        "put-it-down-here",
        "Put down what you hold where you are.",
        (
            ("You hold an object.", "Put it down right here."),
            ("There is something in your hand.", "Leave it at the place you are at."),
            ("You carry something.", "Move it to the nearest receptacle now."),
        ),
    ),
)

RULES: tuple[Rule, ...] = HELPFUL + HARMFUL
TABLE = RuleTable(rules=HELPFUL, assertions=FAMILY, patterns=PATTERNS)
