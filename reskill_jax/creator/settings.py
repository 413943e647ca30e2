"""Checks all that a creator with a language model needs, but for the network."""

from collections.abc import Iterator
from typing import Any

from reskill_jax.llm.backends import NAMES, PACKAGES, SIDECAR
from reskill_jax.modules import missing


def problems(
    *,
    name: str,
    engine: str,
    push_timeout_s: float,
    colocate: bool = False,
    **settings: Any,
) -> Iterator[str]:
    """Yield what cannot work; each problem begins with the argument's name.

    Args:
        name: of the creator, not ``offline``.
        engine: name of the engine that samples.
        push_timeout_s: seconds in which it must have taken new weights.
        colocate: whether its servers sleep while the policy is updated.
        **settings: the other arguments of `factory.make_llm_creator`.
    """
    sdk = [PACKAGES[name]] if name in PACKAGES else []
    if needs := missing("llm", "pydantic", "tenacity", *sdk):
        yield f"name={name!r} {needs}"
        return
    from reskill_jax.creator.factory import problem  # noqa: PLC0415

    llm = settings["llm"]
    if name in NAMES and not llm["name"]:
        yield (
            f"llm.name='': name={name!r} needs the name of a model, as that service "
            "calls it; name='offline' needs none"
        )
    elif found := problem(name, **settings):
        yield f"name={name!r}: {found}"
    if name == SIDECAR:
        yield from _sidecar_problems(engine, llm["timeout_s"], push_timeout_s)
        if colocate:
            yield (
                "name='sidecar': the servers sleep while the policy is updated "
                "(colocate), and would not answer: use devices of their own, or "
                "another creator"
            )


def _sidecar_problems(
    engine: str, timeout_s: float, push_timeout_s: float
) -> Iterator[str]:
    """Creator and engine share servers."""
    if engine != "vllm":
        yield (
            f"name='sidecar': the engine {engine!r} has no servers to ask: use the "
            "engine 'vllm', or another creator"
        )
    if timeout_s >= push_timeout_s:
        yield (
            f"llm.timeout_s={timeout_s:g}: new weights wait for the creator's answers, "
            f"at most {push_timeout_s:g} seconds (timeout_s of the engine): make it "
            "less"
        )
