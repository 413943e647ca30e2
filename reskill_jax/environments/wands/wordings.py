"""The texts around what is said of products."""

from reskill_jax.environments.wording import Wording

TAGS = ("inspect", "attrs", "attr", "desc", "choose")
REQUEST = f"exactly one tag: {', '.join(f'<{tag}>..</{tag}>' for tag in TAGS)}"

FULL = Wording(
    role=(
        "Find the product that is exactly what a shopper asks for. Products have "
        "numbers, and one of them fits. A reply is one sentence of thought and then "
        "exactly one tag:\n"
        "<inspect>1</inspect> shows name, class and rating of product 1\n"
        "<attrs>1</attrs> shows all of its features\n"
        "<attr>1, material</attr> shows one feature\n"
        "<desc>1</desc> shows its description\n"
        "<choose>1</choose> ends the search with your choice\n\n"
        "Example\n"
        "Request: red wool rug\n"
        "There are products 1 and 2.\n"
        "Reply 1: I compare materials. <attr>1, material</attr>\n"
        "Result: Product 1, material: cotton\n"
        "Reply 2: Now the other. <attrs>2</attrs>\n"
        "Result: Product 2. color: red; material: wool\n"
        "Reply 3: Product 2 fits. <choose>2</choose>\n\n"
        "Now it is your turn.\n"
    ),
    start="Request: {goal}\n{observation}\n",
    turn="Reply {turn}: {action}\nResult: {observation}\n",
    tagged="<{tag}>{text}</{tag}>",
    hint="\n{hint}\n",
    request=(
        "Write reply {turn}: one sentence, then the next tag, for the request: {goal}"
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
