"""The texts around questions and passages."""

from reskill_jax.environments.wording import Wording

TAGS = ("search", "answer")
# Small models copy what stands between tags, so that nothing does.
REQUEST = "one <search>..</search> or one <answer>..</answer>"

FULL = Wording(
    role=(
        "Find the answer to a question. A reply is one sentence of thought and then "
        "exactly one tag: <search>..</search> to search an encyclopedia, as often as "
        "you need, or <answer>..</answer> to end, with only a name, a date or a few "
        "words.\n\n"
        "Example\n"
        "Question: Where was the author of Dracula born?\n"
        "Reply 1: I need the author. <search>author of Dracula</search>\n"
        "Results: (1) Dracula: a novel by Bram Stoker, published in 1897.\n"
        "Reply 2: Now his birthplace. <search>Bram Stoker born</search>\n"
        "Results: (1) Bram Stoker: an Irish writer, born in Clontarf, Dublin.\n"
        "Reply 3: The results say it. <answer>Clontarf</answer>\n\n"
        "Now it is your turn.\n"
    ),
    start="Question: {goal}\n",
    turn="Reply {turn}: {action}\nResults: {observation}\n",
    tagged="<{tag}>{text}</{tag}>",
    skill="- {name}. When: {when_to_use} Then: {action}{example}\n",
    skills="\nSkills, to be followed where they apply:\n{skills}",
    no_skill="(no skill applies to this turn)\n",
    request=(
        "\nWrite reply {turn} of at most {max_turns} to the question: {goal}\n"
        f"End it with {REQUEST}."
    ),
)

BRIEF = Wording(
    role="",
    start="{goal}\n",
    tagged="<{tag}>{text}</{tag}>",
    turn="> {action}\n{observation}\n",
    skill="* {when_to_use} {action}\n",
    skills="{skills}",
    no_skill="",
    request="{goal}\n",
)

WORDINGS = {"full": FULL, "brief": BRIEF}
