"""Plays a turn in the run's environment, and asks language model and embedder."""

import asyncio
import json
import os
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from reskill_jax import build
from reskill_jax.build_strategy import CREATORS, find_creator
from reskill_jax.doctor.checks import Finding, Session, ok, part, skipped, slow, wrong
from reskill_jax.environments.action_format import ActionFormat
from reskill_jax.environments.protocol import Observation
from reskill_jax.environments.task import Task
from reskill_jax.llm.embedders import embed_now
from reskill_jax.llm.retry import CallError
from reskill_jax.rollout.collector import Players
from reskill_jax.strategies import STRATEGIES, WRITING, asks_creator

_SLOW_S = 5.0  # seconds for a turn
_WORD = "water"
_SCHEMA = {
    "type": "object",
    "properties": {"ready": {"type": "boolean"}},
    "required": ["ready"],
    "additionalProperties": False,
}
_WAYS_OUT = {
    "refused": "see whether the key is right and not expired, may use this model, and "
    "whether config.creator.llm.name is what the service calls it",
    "rate_limit": "wait, ask the service for a higher limit, or lower "
    "config.creator.max_concurrency",
    "unreachable": "see whether the service is up, config.creator.llm.base_url is "
    "right, and this host may connect to it (proxy, firewall)",
    "timeout": "raise config.creator.llm.timeout_s, or choose a faster model",
}
_NO_VECTORS = (
    "see whether the service is up and this host may connect to it, and whether "
    "config.embedder.base_url, model and api_key_variable are right; or use "
    "--config.embedder.name=lexical"
)
_OTHER_WAY_OUT = (
    "see whether the service knows structured answers; if not: "
    "--config.creator.llm.structured=False"
)


def tasks(session: Session) -> Finding:
    """Load the tasks of the run."""
    started = time.perf_counter()
    loaded = session.tasks = build.load_tasks(session.config)
    seconds = time.perf_counter() - started
    sizes = [f"{len(loaded.panels.train)} to train on"]
    sizes += [
        f"{len(panel)} of {name}" for name, panel in loaded.panels.held_out.items()
    ]
    absent = set(session.config.eval.splits) - loaded.panels.held_out.keys()
    text = f"{', '.join(sizes)}, read in {seconds:.1f} s"
    if absent:
        return slow(
            f"{text}; nothing to evaluate on in {', '.join(sorted(absent))}",
            "bring their files here (docs/environments.md), or take them out of "
            "config.eval.splits",
        )
    return ok(text)


def environment(session: Session) -> Finding:
    """Begin a task in the run's environment, and take one turn."""
    config, loaded = session.config, part(session.tasks)
    spec = loaded.environment
    with ExitStack() as resources:
        started = time.perf_counter()
        players = build.make_players(config, spec, resources)
        ready = time.perf_counter() - started
        started = time.perf_counter()
        action, observation = asyncio.run(
            _one_turn(players, loaded.panels.train.tasks[0], spec.action_format)
        )
        seconds = time.perf_counter() - started
    where = "here" if spec.remote else f"in {config.env.workers} processes"
    text = (
        f"{config.env.name} {where}, ready in {ready:.1f} s; reset and "
        f"{action[:40]!r} in {seconds:.2f} s"
    )
    if not observation.text and not observation.done:
        return slow(f"{text}: no answer", "look at it with --mode=show in a short run")
    if seconds > _SLOW_S:
        return slow(
            text, "a rollout waits for it at every turn: is what it asks overloaded?"
        )
    if not spec.remote and config.env.workers > (cores := os.cpu_count() or 1):
        return slow(
            f"{text}; this host has {cores} cores",
            f"--config.env.workers={cores}",
        )
    return ok(text)


async def _one_turn(
    players: Players, task: Task, action_format: ActionFormat
) -> tuple[str, Observation]:
    with players.open(task.id) as playing:
        _, observation = await playing.reset(task)
        action = _any_action(observation, action_format)
        return action, await playing.step(action)


def _any_action(observation: Observation, action_format: ActionFormat) -> str:
    """Return the first admissible action; without a list, a word in the first tag.

    So a search environment searches.
    """
    if observation.choices:
        return observation.choices[0]
    tags = getattr(action_format, "tags", ())
    response = f"<{tags[0]}>{_WORD}</{tags[0]}>" if tags else _WORD
    return action_format.parse(response).text or _WORD


def creator(session: Session) -> Finding:
    """Ask the creator's language model one short question."""
    config = session.config
    name = config.creator.name
    if not asks_creator(config.strategy.name):
        return skipped(f"config.strategy.name={config.strategy.name!r} has none")
    if name == "offline":
        return ok("offline: no language model")
    if name not in CREATORS:
        find_creator(name)
        return ok(f"{name}, a module of your own, can be imported")
    if name == "replay":
        calls = Path(config.creator.replay)
        return ok(f"replay of {calls}, {calls.stat().st_size:,} bytes")
    return _ask(session, name)


def embedder(session: Session) -> Finding:
    """Have a text embedded, as methods do that look up what is similar."""
    name, method = session.config.embedder.name, session.config.strategy.name
    if method in STRATEGIES and method not in WRITING:
        return skipped(f"config.strategy.name={method!r} looks nothing up")
    embedding = build.context_resources(session.config)["embedder"]
    started = time.perf_counter()
    try:
        vectors = embed_now(embedding, [_WORD])
    except CallError as error:
        return wrong(f"{name}: {error}", _NO_VECTORS)
    seconds = time.perf_counter() - started
    text = f"{name}: a vector of {vectors.shape[1]} numbers in {seconds:.1f} s"
    if seconds > _SLOW_S and name != "encoder":  # which was loaded first
        return slow(text, "episodes begin with it: is the service overloaded?")
    return ok(text)


def _ask(session: Session, name: str) -> Finding:
    # Not imported above: an extra brings what they need.
    from reskill_jax.llm.backends import (  # noqa: PLC0415
        SIDECAR,
        ChatRequest,
        Model,
        make_backend,
    )
    from reskill_jax.llm.retry import classify  # noqa: PLC0415
    from reskill_jax.llm.sidecar import Sidecar  # noqa: PLC0415
    from reskill_jax.scrub import scrub  # noqa: PLC0415

    model = Model(backend=name, **session.config.creator.llm)
    backend: Any
    if name == SIDECAR:
        if not session.servers:
            return wrong(
                "the engine has no servers to ask", "--config.engine.name=vllm"
            )
        backend = Sidecar(model, session.servers)
    else:
        backend = make_backend(model)
    request = ChatRequest(
        "You answer with one JSON object and nothing else.",
        'Are you ready? Answer {"ready": true}. JSON schema: ' + json.dumps(_SCHEMA),
        _SCHEMA,
        "ready",
    )
    started = time.perf_counter()
    try:
        answer = backend.complete(request)
    except Exception as error:  # every SDK has its own
        failure = classify(error)
        shown = scrub(f"{type(error).__name__}: {error}", (model.key,))[:300]
        return wrong(f"{failure}: {shown}", _WAYS_OUT.get(failure, _OTHER_WAY_OUT))
    seconds = time.perf_counter() - started
    return _judge(f"{name} {model.name}".strip(), answer.text, seconds)


def _judge(who: str, text: str, seconds: float) -> Finding:
    """Look whether an answer can be used."""
    from pydantic import BaseModel  # noqa: PLC0415

    from reskill_jax.llm.parsing import AnswerError, parse  # noqa: PLC0415

    class Ready(BaseModel):
        ready: bool

    try:
        parse(text, Ready)
    except AnswerError as error:
        return slow(
            f"{who} answered in {seconds:.1f} s, but not as asked: {error}",
            "proposals will often fail: choose a larger model",
        )
    return ok(f"{who} answered as asked in {seconds:.1f} s")
