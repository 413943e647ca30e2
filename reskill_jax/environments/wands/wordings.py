"""The texts around what is said of products."""

from reskill_jax.environments.wording import Wording

TAGS = ("inspect", "attrs", "attr", "desc", "choose")
REQUEST = f"exactly one tag: {', '.join(f'<{tag}>..</{tag}>' for tag in TAGS)}"

# A small model does as the example and the last line say and passes over the rest; how
# many turns are left, said beside the last line, it would repeat.
FULL = Wording(
    role=(
        "You compare products for a shopper. At each turn write one sentence of "
        "thought and one command between tags; then you see its result. There are "
        "three turns per product and two more. <attrs>1</attrs> shows all features of "
        "product 1, <desc>1</desc> its description, <inspect>1</inspect> its name, "
        "class and rating, <attr>1, color</attr> its color. Look at every product. "
        "When you know which one is exactly what the shopper asks for, write its "
        "number between <choose> and </choose>.\n"
        "\nExample of a turn:\nI need the features of product 2. <attrs>2</attrs>\n\n"
    ),
    start="Request: {goal}\n{observation}\n",
    turn="\nTurn {turn}: {action}\nResult {turn}:\n{observation}\n",
    tagged="<{tag}>{text}</{tag}>",
    hint="",
    request=(
        "\nTurn {turn}. Write one sentence, then the number of a product between "
        "<attrs> and </attrs>, or another command."
    ),
)
BRIEF = Wording(
    role="",
    start="{goal}\n{observation}\n",
    turn="> {action}\n{observation}\n",
    tagged="<{tag}>{text}</{tag}>",
    hint="{hint}\n",
    skill="* {when_to_use} {action}\n",
    skills="{skills}",
    no_skill="",
    request="{goal}\n",
)
WORDINGS = {"full": FULL, "brief": BRIEF}
