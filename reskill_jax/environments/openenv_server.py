"""Serves an environment by the protocol of OpenEnv.

Episodes are played over WebSockets, tasks are listed over HTTP:

    GET  /health /metadata /schema /list_environments /{env}/splits
    POST /{env}/tasks /{env}/num_tasks /{env}/task /{env}/task_range
    WS   /ws    {"type": "reset", "step", "state" or "close", "data": {..}}

Tasks show their ids, never their source, which may hold the solution.
"""

import itertools
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from aiohttp import WSCloseCode, WSMsgType, web

from reskill_jax.environments.openenv_session import (
    RefusedError,
    Served,
    Session,
    decode,
    panel_of,
    task_at,
    tasks_between,
)
from reskill_jax.environments.panels import TaskPanel, TaskStream
from reskill_jax.environments.protocol import Task

MAX_MESSAGE = 4_000_000  # bytes; a longer one ends its session
_HEARTBEAT = 30.0  # seconds between pings: a client that has gone frees its session


class _Range(msgspec.Struct):
    split: str
    index: int = 0
    start: int | None = None
    stop: int | None = None


def make_app(served: Served) -> web.Application:
    """Make the server."""
    app = web.Application(client_max_size=MAX_MESSAGE, middlewares=[_guard])
    sessions: set[web.WebSocketResponse] = set()
    streams = {
        split: TaskStream(panel, served.seed) for split, panel in served.panels.items()
    }
    numbers = itertools.count(1)

    async def connect(http: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(max_msg_size=MAX_MESSAGE, heartbeat=_HEARTBEAT)
        await socket.prepare(http)
        if "session_id" in http.query:  # those of other servers can be joined
            await _refuse(socket, RefusedError("unknown session", "SESSION_ERROR"))
        elif len(sessions) >= served.max_sessions:
            text = f"all {served.max_sessions} sessions are in use: try again later"
            await _refuse(socket, RefusedError(text, "CAPACITY_REACHED"))
        else:
            sessions.add(socket)
            session = Session(served, streams, f"session-{next(numbers)}")
            try:
                await _serve(socket, session)
            finally:
                session.close()
                sessions.discard(socket)
        await socket.close()
        return socket

    async def end(_: web.Application) -> None:
        for socket in tuple(sessions):
            await socket.close(code=WSCloseCode.GOING_AWAY, message=b"server ends")

    app.on_shutdown.append(end)
    app.router.add_get("/ws", connect)
    _add_routes(app, served)
    return app


async def _serve(socket: web.WebSocketResponse, session: Session) -> None:
    """Answer the messages of a session until it ends."""
    while True:
        try:
            message = await socket.receive(timeout=session.patience)
        except TimeoutError:
            if session.give_up_late():
                continue
            text = f"nothing was asked for {session.served.idle_seconds:g} s"
            await _refuse(socket, RefusedError(text, "SESSION_ERROR"))
            return
        if message.type not in (WSMsgType.TEXT, WSMsgType.BINARY):
            return  # closed, broken, or too long a message
        try:
            if message.type != WSMsgType.TEXT:
                raise RefusedError("send text, not bytes", "INVALID_JSON")
            answer = await session.answer(message.data)
        except RefusedError as refusal:
            await _refuse(socket, refusal)
            continue
        if answer is None or socket.closed:
            return
        await socket.send_json(answer)


async def _refuse(socket: web.WebSocketResponse, refusal: RefusedError) -> None:
    if not socket.closed:
        data = {"message": str(refusal), "code": refusal.code}
        await socket.send_json({"type": "error", "data": data})


@web.middleware
async def _guard(
    request: web.Request,
    handler: Callable[[web.Request], Awaitable[web.StreamResponse]],
) -> web.StreamResponse:
    """Refuse what web pages send, and answer mistakes in JSON."""
    if "Origin" in request.headers:  # only browsers send it, for whatever page is open
        return web.json_response({"detail": "not for browsers"}, status=403)
    try:
        return await handler(request)
    except RefusedError as refusal:
        return web.json_response({"detail": str(refusal)}, status=400)
    except web.HTTPException as error:
        return web.json_response({"detail": error.reason}, status=error.status)


def _add_routes(app: web.Application, served: Served) -> None:
    """Add what is asked over HTTP: it changes nothing."""

    def get(path: str, document: Any) -> None:
        async def show(_: web.Request) -> web.Response:
            return web.json_response(document)

        app.router.add_get(path, show)

    def post(path: str, make: Callable[[_Range, TaskPanel], Any]) -> None:
        async def show(http: web.Request) -> web.Response:
            asked = decode(await http.read(), _Range)
            return web.json_response(make(asked, panel_of(served, asked.split)))

        app.router.add_post(f"/{served.name}/{path}", show)

    get("/health", {"status": "healthy"})
    about = f"{served.name}, {served.max_turns} turns; splits: " + ", ".join(
        f"{split} {panel.label}" for split, panel in served.panels.items()
    )
    get(
        "/metadata",
        {"name": served.name, "description": about, "version": served.version},
    )
    get("/schema", _SCHEMA)
    get("/list_environments", [served.name])
    types = {"train": "train", "test": "test"}
    splits = [
        {"name": split, "type": types.get(split, "validation")}
        for split in served.panels
    ]
    get(f"/{served.name}/splits", splits)
    post(
        "tasks",
        lambda asked, panel: {
            "tasks": list(map(_shown, panel)),
            "env_name": served.name,
        },
    )
    post("num_tasks", lambda asked, panel: {"num_tasks": len(panel)})
    post("task", lambda asked, panel: {"task": _shown(task_at(panel, asked.index))})
    post(
        "task_range",
        lambda asked, panel: {
            "tasks": list(map(_shown, tasks_between(panel, asked.start, asked.stop)))
        },
    )


def _shown(task: Task) -> dict[str, str]:
    return {"id": task.id, "kind": task.kind, "split": task.split}


def _object(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "additionalProperties": False}


_TEXT = {"type": "string"}
_BOOLEAN = {"type": "boolean"}
_SCHEMA = {
    "action": _object(
        command=_TEXT | {"description": "an action, as the environment takes it"},
        response=_TEXT | {"description": "instead: a model's response, to be read"},
        metadata={"type": "object"},
    ),
    "observation": _object(
        text=_TEXT,
        goal=_TEXT,
        actions={"type": ["array", "null"], "items": _TEXT},
        hint=_TEXT,
        valid=_BOOLEAN,
        success=_BOOLEAN,
        question=_BOOLEAN,
        scores={"type": "object"},
        task_id=_TEXT,
        turn={"type": "integer"},
    ),
    "state": _object(
        episode_id={"type": ["string", "null"]},
        step_count={"type": "integer"},
        task_id={"type": ["string", "null"]},
        split={"type": ["string", "null"]},
        done=_BOOLEAN,
        success=_BOOLEAN,
        reward={"type": "number"},
    ),
}
