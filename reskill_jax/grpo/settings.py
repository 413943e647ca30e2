"""How the settings of an update fit the batches that it is given."""

from collections.abc import Iterator, Sequence
from typing import Any


def problems(
    *,
    rule: str,
    estimator: str,
    pass_k: int,
    group_size: int,
    minibatches: int,
    buckets: Sequence[int],
    tokens_per_microbatch: int,
    importance_cap: float,
    token_mask: Sequence[float],
    episode_mask: Sequence[float],
    kl_coef: float,
    kl_estimator: str,
    kl_in: str,
    reference_refresh: int,
    schedule: str,
    decay_steps: int,
    learning_rate: float,
    min_learning_rate: float,
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
        group_size: rollouts of a group.
        minibatches: optimiser steps per batch.
        buckets: lengths of rows, tokens, increasing.
        tokens_per_microbatch: per device.
        importance_cap: see `losses.grpo_loss`.
        token_mask: see `staleness.keep_close`.
        episode_mask: likewise.
        kl_coef: see `update.make_update`, as for the next two.
        kl_estimator: of the KL term.
        kl_in: loss or reward.
        reference_refresh: steps after which the reference is set anew; 0: never.
        schedule: of the learning rate, see `schedules.make_schedule`.
        decay_steps: its length, in optimiser steps.
        learning_rate: the highest.
        min_learning_rate: the lowest, at its end.
        old_logprobs: see `update.make_update`.
        tasks_per_step: groups in a batch.
        longest_turn: tokens of the longest prompt and response together.
    """
    yield from advantage_problems(rule=rule, estimator=estimator)
    if estimator == "passk" and pass_k > group_size:
        yield (
            f"pass_k={pass_k} is more than the {group_size} rollouts of a group: "
            "lower it, or raise group_size"
        )
    if tasks_per_step % minibatches:
        yield (
            f"minibatches={minibatches} cannot divide the {tasks_per_step} tasks of a "
            "step into parts of whole groups: make tasks_per_step a multiple of it, "
            "or lower minibatches"
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
    yield from staleness_problems(
        old_logprobs=old_logprobs,
        importance_cap=importance_cap,
        token_mask=token_mask,
        episode_mask=episode_mask,
    )
    yield from kl_problems(kl_estimator=kl_estimator, kl_in=kl_in)
    if reference_refresh and not kl_coef:
        yield (
            f"reference_refresh={reference_refresh} has no reference to set anew with "
            "kl_coef=0: set it to 0, or give the KL term a weight"
        )
    if (schedule == "constant") != (decay_steps == 0):
        yield (
            f"decay_steps={decay_steps} does not go with schedule={schedule!r}: it is "
            "the length of linear and cosine, and 0 with constant"
        )
    if schedule == "constant" and min_learning_rate:
        yield (
            f"min_learning_rate={min_learning_rate} is never reached with "
            "schedule='constant': set it to 0, or choose linear or cosine"
        )
    elif min_learning_rate > learning_rate:
        yield (
            f"min_learning_rate={min_learning_rate} is above learning_rate="
            f"{learning_rate}: it is what a schedule falls to; lower it"
        )


def advantage_problems(*, rule: str, estimator: str) -> Iterator[str]:
    """Yield what the rule of the released code does not go with."""
    if rule == "reference" and estimator not in ("grpo", "dr_grpo"):
        yield (
            f"estimator={estimator!r} is not of the released code, whose rule is "
            "'reference': choose rule='corrected', or the estimator grpo or dr_grpo"
        )


def kl_problems(*, kl_estimator: str, kl_in: str) -> Iterator[str]:
    """Yield why a KL term cannot be estimated like that."""
    if kl_in == "reward" and kl_estimator != "k1":
        yield (
            f"kl_estimator={kl_estimator!r} has no meaning with kl_in='reward', where "
            "k1 alone has the right mean for every turn: choose 'k1'"
        )
    if kl_in == "loss" and kl_estimator == "k1":
        yield (
            "kl_estimator='k1' with kl_in='loss' has a gradient of mean zero, which "
            "holds nothing: choose 'k2' or 'k3', or kl_in='reward'"
        )


def staleness_problems(
    *,
    old_logprobs: str,
    importance_cap: float,
    token_mask: Sequence[float],
    episode_mask: Sequence[float],
) -> Iterator[str]:
    """Yield why the sampler's log-probs are compared with nothing."""
    if old_logprobs == "recompute":
        return
    for name, value in (
        ("importance_cap", importance_cap),
        ("token_mask", token_mask),
        ("episode_mask", episode_mask),
    ):
        if value:
            yield (
                f"{name}={value} needs old_logprobs='recompute': with "
                f"{old_logprobs!r} there is nothing to compare the sampler's with"
            )
