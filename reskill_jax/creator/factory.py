"""Builds a creator with a language model from plain settings.

The settings are the section ``creator`` of a configuration; making one opens no file
and no connection.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from reskill_jax.creator.prompting import Prompts
from reskill_jax.creator.stages import LlmCreator
from reskill_jax.creator.verify import BankProblem, no_problem
from reskill_jax.llm.backends import SIDECAR, Backend, Model, make_backend
from reskill_jax.llm.call_log import CallLog
from reskill_jax.llm.caller import Budget, Caller, RetryPolicy
from reskill_jax.llm.sidecar import Sidecar

REPLAY = "replay"
_Settings = TypeVar("_Settings")


def make_llm_creator(
    name: str,
    calls: Path,
    *,
    servers: Sequence[str] = (),
    llm: Mapping[str, Any],
    budget: Mapping[str, Any],
    retry: Mapping[str, Any],
    prompts: str = "",
    replay: str = "",
    analysed_tasks: int = 30,
    max_concurrency: int = 16,
    author_attempts: int = 3,
    bank_problem: BankProblem = no_problem,
    grade: bool = True,
    goals: bool = False,
    rejected_edits: int = 0,
) -> LlmCreator:
    """Make the creator.

    Args:
        name: a backend of `backends.NAMES`, ``sidecar``, or ``replay``: answers come
            from the log `replay` alone.
        calls: file for its calls; answers in it are not asked for again.
        servers: addresses of the engine's, for a sidecar.
        llm: fields of `Model`, without the backend.
        budget: fields of `Budget`.
        retry: fields of `RetryPolicy`.
        prompts: directory of prompts that replace ours; empty: none.
        replay: the log of an earlier run.
        analysed_tasks: see `LlmCreator`.
        max_concurrency: see `LlmCreator`.
        author_attempts: see `LlmCreator`.
        bank_problem: see `verify`.
        grade: see `LlmCreator`.
        goals: see `LlmCreator`.
        rejected_edits: see `LlmCreator`.

    Raises:
        ValueError: a setting is out of range, prompts cannot be used, or there is no
            log; begins with the argument's name.
    """
    caller = make_caller(
        name,
        calls,
        servers=servers,
        llm=llm,
        budget=budget,
        retry=retry,
        replay=replay,
    )
    return LlmCreator(
        caller,
        Prompts(prompts),
        analysed_tasks=analysed_tasks,
        max_concurrency=max_concurrency,
        author_attempts=author_attempts,
        bank_problem=bank_problem,
        grade=grade,
        goals=goals,
        rejected_edits=rejected_edits,
    )


def make_caller(
    name: str,
    calls: Path,
    *,
    servers: Sequence[str] = (),
    llm: Mapping[str, Any],
    budget: Mapping[str, Any],
    retry: Mapping[str, Any],
    replay: str = "",
) -> Caller:
    """Make what asks the language model, for a creator or for a writer.

    Args and errors are those of `make_llm_creator`.
    """
    model = Model(backend=name, **llm)
    earlier = None
    if name == REPLAY:
        earlier = Path(replay)
        if not earlier.is_file():
            raise ValueError(f"replay={replay!r}: no such file: name a calls.jsonl")
    backend: Backend | None = None
    if name == SIDECAR:
        backend = Sidecar(model, servers)
    elif name != REPLAY:
        backend = make_backend(model)
    return Caller(
        backend,
        CallLog(calls, earlier),
        budget=_checked("budget", Budget, budget),
        retry=_checked("retry", RetryPolicy, retry),
        model=f"{name} {model.name}".strip(),
        secrets=(model.key,),
    )


def problem(name: str, **settings: Any) -> str:
    """Return why such a creator cannot be used here and now; empty if it can.

    Begins with the name of an argument of `make_llm_creator`.
    """
    try:
        make_llm_creator(name, Path("calls.jsonl"), **settings)
    except ValueError as error:
        return str(error)
    if name == REPLAY:
        return ""
    found = Model(backend=name, **settings["llm"]).problem()
    return found and f"llm.{found}"


def _checked(
    name: str, kind: Callable[..., _Settings], values: Mapping[str, Any]
) -> _Settings:
    """Make settings of an argument; errors begin with its name."""
    try:
        return kind(**values)
    except ValueError as error:
        raise ValueError(f"{name}.{error}") from error
