"""What the offline creator may propose for WANDS, and the checks behind it."""

from reskill_jax.skills.assertions import Assertion
from reskill_jax.skills.checks import (
    ActionBefore,
    ActionCount,
    ActionExists,
    NoConsecutiveRepeat,
)
from reskill_jax.skills.rule import Rule, RuleTable

LOOK = r"^(inspect|attrs?|desc)\["
FEATURES = r"^(attrs?|desc)\["
CHOICE = r"^choose\["

_CHOOSES = ActionExists(CHOICE)

# The order of blame: an episode without a choice lacks that first.
ASSERTIONS = (
    Assertion(_CHOOSES, "chooses"),
    Assertion(ActionBefore(LOOK, CHOICE), "looks-first"),
    Assertion(ActionBefore(FEATURES, CHOICE), "reads-features"),
    Assertion(ActionCount(LOOK, min=2), "compares", given=_CHOOSES),
    Assertion(NoConsecutiveRepeat(2, LOOK, window=4), "does-not-repeat"),
)

RULES = (
    Rule(
        "choose-in-time",
        "Choose before the replies run out.",
        (
            ("You know which product fits.", "Choose it now."),
            ("Few replies are left.", "Choose the likeliest product."),
            ("All products were looked at.", "Do not look again. Choose one."),
        ),
        pattern=LOOK,
        assertions=("chooses",),
    ),
    Rule(
        "look-before-choosing",
        "Look at a product before choosing one.",
        (
            ("You have not looked at any product.", "Show the features of product 1."),
            ("Nothing was shown yet.", "Do not choose yet. Look at a product first."),
        ),
        assertions=("looks-first",),
    ),
    Rule(
        "read-the-features",
        "Read features, as names do not tell all.",
        (
            (
                "You know only names of products.",
                "Show the features that the request speaks of.",
            ),
            (
                "The request names a color, material, size or shape.",
                "Show all features of each product.",
            ),
        ),
        example="attrs of product 1, then attrs of product 2",
        assertions=("reads-features",),
    ),
    Rule(
        "compare-all-products",
        "Look at every product before choosing.",
        (
            (
                "One product seems to fit.",
                "Show the same features of the other products, too.",
            ),
            (
                "A product was not looked at yet.",
                "Look at it before you choose.",
            ),
        ),
        pattern=LOOK,
        assertions=("compares",),
    ),
    Rule(
        "look-at-something-new",
        "Do not ask for the same thing twice.",
        (
            (
                "You have seen these features already.",
                "Look at another product, or choose.",
            ),
            ("You are about to repeat a reply.", "Ask for something new, or choose."),
        ),
        pattern=LOOK,
        assertions=("does-not-repeat",),
    ),
)

TABLE = RuleTable(rules=RULES, assertions=ASSERTIONS, patterns=(LOOK, CHOICE))
