"""How the settings of an update fit the batches that it is given."""

from collections.abc import Iterator, Sequence
from typing import Any


def problems(
    *,
    rule: str,
    estimator: str,
    pass_k: int,
    drop_zero_variance: bool,
    group_size: int,
    minibatches: int,
    buckets: Sequence[int],
    tokens_per_microbatch: int,
    importance_cap: float,
    old_logprobs: str,
    tasks_per_step: int,
    longest_turn: int,
    **_: Any,
) -> Iterator[str]:
    """Yield what does not fit; each problem begins with the argument's name.

    Args:
        rule: of the advantages, see `advantages.advantages`.
        estimator: likewise.
        pass_k: see `estimators.Estimator`.
        drop_zero_variance: see `update.make_update`.
        group_size: rollouts of a group.
        minibatches: optimiser steps per batch.
        buckets: lengths of rows, tokens, increasing.
        tokens_per_microbatch: per device.
        importance_cap: see `losses.grpo_loss`.
        old_logprobs: see `update.make_update`.
        tasks_per_step: groups in a batch.
        longest_turn: tokens of the longest prompt and response together.
    """
    if rule == "reference" and estimator not in ("grpo", "dr_grpo"):
        yield (
            f"estimator={estimator!r} is not of the released code, whose rule is "
            "'reference': choose rule='corrected', or the estimator grpo or dr_grpo"
        )
    if rule == "reference" and drop_zero_variance:
        yield (
            "drop_zero_variance=True has nothing to drop with rule='reference', which "
            "moves the advantages of all groups: choose rule='corrected'"
        )
    if estimator == "passk" and pass_k > group_size:
        yield (
            f"pass_k={pass_k} is more than the {group_size} rollouts of a group: "
            "lower it, or raise group_size"
        )
    if tasks_per_step % minibatches:
        yield (
            f"minibatches={minibatches} cannot divide the {tasks_per_step} tasks of a "
            "step into parts of whole groups: make tasks_per_step a multiple of it"
        )
    if buckets[-1] < longest_turn:
        yield (
            f"buckets={tuple(buckets)} has no row for a turn of {longest_turn} tokens "
            "(prompt and response): add a longer one, or lower max_tokens of either"
        )
    if buckets[-1] > tokens_per_microbatch:
        yield (
            f"tokens_per_microbatch={tokens_per_microbatch} is below the longest of "
            f"buckets={tuple(buckets)}: raise it, or leave that bucket out"
        )
    if importance_cap and old_logprobs != "recompute":
        yield (
            f"importance_cap={importance_cap} needs old_logprobs='recompute': there is "
            f"nothing to weigh with {old_logprobs!r}"
        )
