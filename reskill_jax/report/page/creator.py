"""What the creator of skills has done, asked and spent, for the page."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from reskill_jax.report.page.figures import short
from reskill_jax.report.page.reading import CallLine

_SHOWN = 200  # newest calls, with their texts
_LONGEST = 8_000  # characters of a prompt or response
_PER_PRICE = 1_000_000  # tokens that a price is for


def creator_document(
    calls: Sequence[CallLine],
    metrics: Sequence[Mapping[str, Any]],
    config: Mapping[str, Any],
) -> dict[str, Any]:
    """Return calls by stage, totals, refusals and the newest texts.

    Args:
        calls: all of the run.
        metrics: lines of the run; ``creator/*`` are counts per step.
        config: of the run, flat.
    """
    counts: dict[str, float] = defaultdict(float)
    for line in metrics:
        for name, value in line.items():
            if name.startswith("creator/") and name != "creator/pending":
                counts[name.removeprefix("creator/")] += value
    prices = [config.get(f"creator.budget.{way}_price") for way in ("input", "output")]
    return short(
        {
            "name": config.get("creator.name"),
            "counts": dict(sorted(counts.items())),
            "stages": _stages(calls, prices),
            "calls": [_call(call) for call in calls[-_SHOWN:]],
            "total_calls": len(calls),
            "priced": any(prices),
        }
    )


def _stages(calls: Sequence[CallLine], prices: Sequence[Any]) -> list[dict[str, Any]]:
    """Sum up calls by stage and model."""
    groups: dict[tuple[str, str], list[CallLine]] = defaultdict(list)
    for call in calls:
        groups[call.stage, call.model].append(call)
    found = []
    for (stage, model), own in groups.items():
        asked = [call for call in own if not call.recorded]
        tokens = sum(c.tokens_in for c in asked), sum(c.tokens_out for c in asked)
        cost = sum(
            count * price / _PER_PRICE
            for count, price in zip(tokens, prices, strict=True)
            if isinstance(price, int | float)
        )
        found.append(
            {
                "stage": stage,
                "model": model,
                "calls": len(own),
                "recorded": len(own) - len(asked),
                "failed": sum(bool(call.error) for call in own),
                "in": tokens[0],
                "out": tokens[1],
                "seconds": sum(call.seconds for call in asked),
                "dollars": cost,
            }
        )
    return found


def _call(call: CallLine) -> dict[str, Any]:
    return {
        "cycle": call.cycle,
        "stage": call.stage,
        "model": call.model,
        "seconds": call.seconds,
        "recorded": call.recorded,
        "prompt": call.prompt[:_LONGEST],
        "response": call.response[:_LONGEST],
        "error": call.error[:_LONGEST],
        "tokens": [call.tokens_in, call.tokens_out],
    }
