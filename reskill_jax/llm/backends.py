"""Language models behind one protocol, through their makers' SDKs.

The SDKs come with the extra ``llm``. They are imported with the first call, so that
looking at a run needs neither them nor a key. A backend makes one attempt, limited in
time and size, and lets all errors through: `caller.Caller` handles them. Keys come from
environment variables and are never stored.
"""

import importlib.util
import json
import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

from reskill_jax.llm.json_schema import without_limits
from reskill_jax.scrub import holds_credentials

_MOST_TOKENS = 1e12  # of an answer; also tells numbers that are none
# Why services end an answer before it is one: OpenAI; Anthropic; Bedrock, twice.
_BLOCKED = ("content_filter", "refusal", "content_filtered", "guardrail_intervened")
MAX_BYTES = 1 << 20  # of an answer as it comes over the wire
NAMES = ("openai", "anthropic", "bedrock")  # services
SIDECAR = "sidecar"  # the policy itself, see `sidecar`
PACKAGES = {  # SDKs
    "openai": "openai",
    "anthropic": "anthropic",
    "bedrock": "boto3",
    SIDECAR: "openai",
}


@dataclass(frozen=True)
class ChatRequest:
    """One question.

    Attributes:
        system: the standing instructions.
        prompt: the question itself.
        schema: JSON schema that the answer has to follow, with limits of length.
        name: of the schema, an identifier.
    """

    system: str
    prompt: str
    schema: dict[str, Any]
    name: str


@dataclass(frozen=True)
class ChatResponse:
    """One answer.

    Attributes:
        text: of the answer.
        tokens_in: what it cost.
        tokens_out: likewise.
        cut: whether a limit cut it.
        blocked: the service's word for it, if a filter or a refusal stopped it.
    """

    text: str
    tokens_in: int = 0
    tokens_out: int = 0
    cut: bool = False
    blocked: str = ""


@dataclass(frozen=True)
class Model:
    """Which model to ask, and how.

    Attributes:
        backend: openai (any compatible server, a local vLLM too), anthropic, bedrock,
            or sidecar.
        name: the model's name at that service; a sidecar needs none.
        base_url: the service's address; empty: the default of its SDK.
        api_key_variable: environment variable that holds the key; empty: the default of
            the SDK. The credentials of bedrock are those that boto3 finds.
        structured: let the service enforce the schema; not every server can.
        limits: tell it the limits of texts and lists, too; vLLM, SGLang and llama.cpp
            keep to them, some services refuse schemas that have them.
        temperature: of sampling; negative: leave it to the service.
        max_tokens: of an answer.
        timeout_s: seconds for one attempt, all in all.
    """

    backend: str
    name: str
    base_url: str = ""
    api_key_variable: str = ""
    structured: bool = True
    limits: bool = False
    temperature: float = 0.2
    max_tokens: int = 4096
    timeout_s: float = 120.0

    def problem(self) -> str:
        """Return why this model cannot be asked; empty if it can.

        Begins with the name of an attribute.
        """
        package = PACKAGES[self.backend]
        if importlib.util.find_spec(package) is None:
            return f"backend={self.backend!r} needs {package}: pip install '.[llm]'"
        if self.backend == SIDECAR and self.base_url:
            return (
                f"base_url={self.base_url!r}: the engine says where a sidecar is: "
                "leave it empty"
            )
        if self.backend != SIDECAR and not self.name:
            return f"name='': backend={self.backend!r} needs the name of a model"
        if holds_credentials(self.base_url):
            return (
                "base_url: the address holds credentials, which would be recorded: use "
                "api_key_variable"
            )
        if self.backend not in ("bedrock", SIDECAR) and not self.key:
            return (
                f"api_key_variable={self.api_key_variable!r}: the environment variable "
                f"{self._variable} holds no key: export it (any word for a server that "
                "asks for none)"
            )
        return ""

    @property
    def key(self) -> str:
        """The key; empty where there is none."""
        return os.environ.get(self._variable, "")

    @property
    def _variable(self) -> str:
        return self.api_key_variable or f"{self.backend.upper()}_API_KEY"


class Backend(Protocol):
    """A language model."""

    def complete(self, request: ChatRequest) -> ChatResponse:
        """Answer once; any exception may be raised."""
        ...


def make_backend(model: Model) -> Backend:
    """Make the backend of a model; see `Model.problem`, whether it can be asked."""
    return _MAKERS[model.backend](model)


class _Backend:
    def __init__(self, model: Model):
        self._model = model

    def _temperature(self) -> dict[str, float]:
        temperature = self._model.temperature
        return {} if temperature < 0 else {"temperature": temperature}

    def _schema(self, request: ChatRequest) -> dict[str, Any]:
        limits = self._model.limits
        return request.schema if limits else without_limits(request.schema)


class OpenAI(_Backend):
    """Any server that speaks OpenAI's chat completions."""

    @cached_property
    def _client(self) -> Any:
        import openai  # noqa: PLC0415

        model = self._model
        return openai.OpenAI(
            api_key=model.key,
            base_url=model.base_url or None,
            max_retries=0,
        )

    def complete(self, request: ChatRequest) -> ChatResponse:
        """See `Backend`."""
        return self._ask(request, self._model.timeout_s)

    def _ask(self, request: ChatRequest, seconds: float, **extra: Any) -> ChatResponse:
        """Ask within so many seconds; `extra` goes along in the body."""
        model = self._model
        options: dict[str, Any] = self._temperature()
        if model.structured:
            options["response_format"] = {
                "type": "json_schema",
                "json_schema": {
                    "name": request.name,
                    "schema": self._schema(request),
                    "strict": True,
                },
            }
        create = self._client.chat.completions.with_streaming_response.create
        deadline = time.monotonic() + seconds
        with create(
            model=model.name,
            messages=[
                {"role": "system", "content": request.system},
                {"role": "user", "content": request.prompt},
            ],
            max_completion_tokens=model.max_tokens,
            timeout=seconds,
            extra_body=extra,
            **options,
        ) as response:
            answer = read(response.iter_bytes(), deadline)
        choice = answer["choices"][0]
        message = choice["message"]
        tokens_in, tokens_out = usage(answer, "prompt_tokens", "completion_tokens")
        return ChatResponse(
            # In place of an answer, so that people find it in the log.
            _content(message.get("content") or message.get("refusal")),
            tokens_in,
            tokens_out,
            cut=choice.get("finish_reason") == "length",
            blocked=_blocked(choice.get("finish_reason")),
        )


class Anthropic(_Backend):
    """Claude at Anthropic; the schema is that of a tool which it has to use."""

    @cached_property
    def _client(self) -> Any:
        import anthropic  # noqa: PLC0415

        model = self._model
        return anthropic.Anthropic(
            api_key=model.key,
            base_url=model.base_url or None,
            timeout=model.timeout_s,
            max_retries=0,
        )

    def complete(self, request: ChatRequest) -> ChatResponse:
        """See `Backend`."""
        model = self._model
        # In the body: newer versions of the SDK have no such argument.
        options: dict[str, Any] = {"extra_body": self._temperature()}
        if model.structured:
            tool = {
                "name": request.name,
                "description": "Hand over the answer.",
                "input_schema": self._schema(request),
            }
            options["tools"] = [tool]
            options["tool_choice"] = {"type": "tool", "name": request.name}
        create = self._client.messages.with_streaming_response.create
        deadline = time.monotonic() + model.timeout_s
        with create(
            model=model.name,
            system=request.system,
            messages=[{"role": "user", "content": request.prompt}],
            max_tokens=model.max_tokens,
            **options,
        ) as response:
            answer = read(response.iter_bytes(), deadline)
        tokens_in, tokens_out = usage(answer, "input_tokens", "output_tokens")
        return ChatResponse(
            _text(answer["content"], lambda block: block.get("input")),
            tokens_in,
            tokens_out,
            cut=answer.get("stop_reason") == "max_tokens",
            blocked=_blocked(answer.get("stop_reason")),
        )


class Bedrock(_Backend):
    """Models on Amazon Bedrock, with the credentials that boto3 finds."""

    @cached_property
    def _client(self) -> Any:
        import boto3  # noqa: PLC0415
        from botocore.config import Config  # noqa: PLC0415

        limit = self._model.timeout_s
        return boto3.client(
            "bedrock-runtime",
            endpoint_url=self._model.base_url or None,
            config=Config(
                connect_timeout=limit,
                read_timeout=limit,
                retries={"total_max_attempts": 1},
                max_pool_connections=64,
            ),
        )

    def complete(self, request: ChatRequest) -> ChatResponse:
        """See `Backend`."""
        model = self._model
        options: dict[str, Any] = {}
        if model.structured:
            tool = {
                "name": request.name,
                "description": "Hand over the answer.",
                "inputSchema": {"json": self._schema(request)},
            }
            options["toolConfig"] = {
                "tools": [{"toolSpec": tool}],
                "toolChoice": {"tool": {"name": request.name}},
            }
        answer = self._client.converse(
            modelId=model.name,
            system=[{"text": request.system}],
            messages=[{"role": "user", "content": [{"text": request.prompt}]}],
            inferenceConfig={"maxTokens": model.max_tokens} | self._temperature(),
            **options,
        )
        tokens_in, tokens_out = usage(answer, "inputTokens", "outputTokens")
        return ChatResponse(
            _text(
                answer["output"]["message"]["content"],
                lambda block: block.get("toolUse", {}).get("input"),
            ),
            tokens_in,
            tokens_out,
            cut=answer.get("stopReason") == "max_tokens",
            blocked=_blocked(answer.get("stopReason")),
        )


def read(
    chunks: Iterable[bytes], deadline: float, max_bytes: int = MAX_BYTES
) -> dict[str, Any]:
    """Read a JSON answer as it arrives.

    Each read has a time-out; this also stops a server that sends slowly without end.

    Args:
        chunks: of the body.
        deadline: on the clock `time.monotonic`.
        max_bytes: of the body, at most.

    Raises:
        TimeoutError: the deadline has passed.
        ValueError: it is longer than `max_bytes`, not a JSON object, or tells an error.
    """
    body = b""
    for chunk in chunks:
        body += chunk
        if len(body) > max_bytes:
            raise ValueError(f"the service sent more than {max_bytes} bytes")
        if time.monotonic() > deadline:
            raise TimeoutError("the service was still sending at the deadline")
    answer = json.loads(body)
    if not isinstance(answer, dict):
        raise ValueError("the service sent JSON that is not an object")
    if told := answer.get("error"):  # gateways do, with the status 200
        raise ValueError(f"the service sent error={told!r:.200}")
    return answer


def usage(answer: Mapping[str, Any], *names: str) -> list[int]:
    """Return the counts of tokens that an answer tells; 0 where it tells none.

    Raises:
        ValueError: a count is none, which a budget could not be held by.
    """
    told = answer.get("usage") or {}
    if not isinstance(told, Mapping):
        raise ValueError(f"the service sent usage={told!r:.40}: needs an object")
    counts = [told.get(name) or 0 for name in names]
    for name, count in zip(names, counts, strict=True):
        if type(count) not in (int, float) or not 0 <= count < _MOST_TOKENS:
            raise ValueError(f"the service sent {name}={count!r:.40}: needs a count")
    return [int(count) for count in counts]


_MAKERS: dict[str, Callable[[Model], Backend]] = {
    "openai": OpenAI,
    "anthropic": Anthropic,
    "bedrock": Bedrock,
}


def _blocked(reason: Any) -> str:
    return reason if reason in _BLOCKED else ""


def _text(blocks: Iterable[dict[str, Any]], tool_input: Any) -> str:
    """Join the blocks of an answer; if one is the input of a tool, return that."""
    texts = []
    for block in blocks:
        if (given := tool_input(block)) is not None:
            return json.dumps(given)
        texts.append(block.get("text") or "")
    return "".join(texts)


def _content(content: str | list[Any] | None) -> str:
    """Return the text of a message, which some servers send as a list of parts.

    Parts of other types are thoughts, or nothing that could be read.

    Raises:
        ValueError: it is something else.
    """
    if isinstance(content, list):
        parts = [{"text": part} if isinstance(part, str) else part for part in content]
        content = _text(
            (p for p in parts if p.get("type", "text") in ("text", "output_text")),
            lambda part: None,
        )
    if not isinstance(content, str | None):
        raise ValueError(f"the service sent content of type {type(content).__name__}")
    return content or ""
