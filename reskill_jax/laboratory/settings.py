"""Checks that a run shows a warm-started policy the prompts that it was taught."""

from collections.abc import Iterator

from reskill_jax.laboratory.recipe import RECIPES


def problems(recipe: str, *, wording: str, layout: str, actions: bool) -> Iterator[str]:
    """Yield what does not fit; each problem begins with the argument's name.

    Args:
        recipe: name of the warm start's recipe.
        wording: of the run's prompts, like the following.
        layout: see `PromptBuilder`.
        actions: whether they list the admissible actions.
    """
    if recipe not in RECIPES:
        yield f"recipe={recipe!r}: choose one of {', '.join(map(repr, RECIPES))}"
        return
    taught = {
        "wording": RECIPES[recipe].wording,
        "layout": "tree",
        "actions": RECIPES[recipe].actions,
    }
    given = {"wording": wording, "layout": layout, "actions": actions}
    for name, value in taught.items():
        if given[name] != value:
            yield (
                f"recipe={recipe!r} taught the policy prompts with {name}={value!r}, "
                f"not {given[name]!r}: use those, or other weights"
            )
