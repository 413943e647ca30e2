"""Asks a language model: recorded, within a budget, and again after failures.

`Caller.ask` returns an answer of the right shape or raises `CallError` with a reason of
the closed set `Failure`. In between it looks the call up in the log, spends from the
budget, tries again after errors that may pass, and leaves a service alone that is down.
"""

import random
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any, TypeVar

from pydantic import BaseModel
from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception,
    stop_after_attempt,
    wait_exponential,
)

from reskill_jax.llm.backends import Backend, ChatRequest, ChatResponse
from reskill_jax.llm.budget import Budget, Spending
from reskill_jax.llm.call_log import CallLog
from reskill_jax.llm.json_schema import closed_schema
from reskill_jax.llm.parsing import MAX_CHARACTERS, AnswerError, answer_of, parse
from reskill_jax.llm.retry import (
    PASSING,
    Breaker,
    CallError,
    Failure,
    RetryPolicy,
    again_after,
    classify,
)
from reskill_jax.llm.sanitize import clean
from reskill_jax.scrub import scrub

_Answer = TypeVar("_Answer", bound=BaseModel)


class Caller:
    """Asks one backend; `ask` may be called from many threads.

    Args:
        backend: whom to ask; None: only recorded answers are used.
        log: where calls are recorded and found again.
        budget: what may be spent.
        retry: how failed calls are repeated.
        model: name of the model, for the log.
        secrets: texts that must not get into the log or a message.
        sleep: waits so many seconds; tests give their own.
        clock: tells the time in seconds; tests give their own.
    """

    def __init__(
        self,
        backend: Backend | None,
        log: CallLog,
        *,
        budget: Budget | None = None,
        retry: RetryPolicy | None = None,
        model: str = "",
        secrets: tuple[str, ...] = (),
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._backend = backend
        self._log = log
        policy = retry or RetryPolicy()
        self._model = model
        self._secrets = secrets
        self._clock = clock
        self._breaker = Breaker(policy, clock)
        # Its own random numbers: those that others draw stay as they are.
        self._retrying = make_retrying(policy, sleep, random.Random())
        self._cycle = 0
        self.spending = Spending(budget or Budget())

    def begin(self, cycle: int) -> None:
        """Begin a proposal: its budget is whole, its calls are found by this number."""
        self._cycle = cycle
        self.spending.cycle = Counter()

    def ask(self, system: str, prompt: str, schema: type[_Answer]) -> _Answer:
        """Ask until there is an answer of the right shape, or none can be had.

        An answer of a wrong shape is asked for once more, with what was wrong.

        Raises:
            CallError: there is none.
            OSError: the log cannot be written.
        """
        name = schema.__name__.lower()
        request = ChatRequest(system, prompt, closed_schema(schema), name)
        try:
            try:
                return _answer(self._complete(request), schema)
            except AnswerError as error:
                self.spending.count(f"errors/{Failure.BAD_ANSWER}")
                complaint = (
                    f"\n\nYour last answer could not be used: {clean(str(error), 600)}."
                    " Answer again with one JSON object of the schema above."
                )
            request = ChatRequest(system, prompt + complaint, request.schema, name)
            return _answer(self._complete(request), schema)
        except AnswerError as error:
            self.spending.count(f"errors/{Failure.BAD_ANSWER}")
            raise CallError(Failure.BAD_ANSWER, str(error)) from error

    def state(self) -> Mapping[str, Any]:
        """Return what the run has spent, as JSON types."""
        return dict(self.spending.run)

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` returned."""
        self.spending.run = Counter(state)

    def _complete(self, request: ChatRequest) -> ChatResponse:
        """Return an answer, recorded or new."""
        if found := self._log.find(self._cycle, request):
            if limit := self.spending.reserve():
                raise self._failed(Failure.BUDGET, f"budget.{limit} is spent")
            self.spending.settle(found.response, found.seconds)
            if self._backend is None:  # so that its own log is complete
                self._note(request, found.response, found.seconds, recorded=True)
            return found.response
        if self._backend is None:
            raise self._failed(
                Failure.NOT_RECORDED,
                f"the log has no answer to {request.name} of cycle {self._cycle}",
            )
        backend, failed = self._backend, list[CallError]()

        def attempt() -> ChatResponse:
            try:
                return self._attempt(backend, request)
            except CallError as error:
                failed.append(error)
                raise

        with suppress(CallError):
            return self._retrying(attempt)
        raise failed[0]  # the cause: later ones may be of the budget or the breaker

    def _attempt(self, backend: Backend, request: ChatRequest) -> ChatResponse:
        if left := self._breaker.seconds_left():
            raise self._failed(
                Failure.CIRCUIT_OPEN, f"too many failures, calls again in {left:.0f} s"
            )
        if limit := self.spending.reserve():
            raise self._failed(Failure.BUDGET, f"budget.{limit} is spent")
        started = self._clock()
        try:
            response = backend.complete(request)
        except Exception as error:  # every SDK has its own; all are counted and logged
            failure = classify(error)
            if failure is not Failure.RATE_LIMIT:
                self._breaker.failed()
            shown = scrub(f"{type(error).__name__}: {error}", self._secrets)[:300]
            self._note(request, f"{failure}: {shown}", self._clock() - started)
            raise self._failed(failure, shown, again_after(error)) from error
        seconds = self._clock() - started
        self._breaker.succeeded()
        text = response.text
        if len(text) > MAX_CHARACTERS:
            # Thoughts may be as long as they like. Longer answers are rejected; one
            # character more shows that it was longer.
            text = answer_of(text)[: MAX_CHARACTERS + 1]
        response = replace(response, text=text)
        self.spending.settle(response, seconds)
        self._note(request, response, seconds)
        return response

    def _note(
        self,
        request: ChatRequest,
        outcome: ChatResponse | str,
        seconds: float,
        *,
        recorded: bool = False,
    ) -> None:
        self._log.add(
            self._cycle,
            request,
            outcome,
            seconds=seconds,
            model=self._model,
            recorded=recorded,
        )

    def _failed(
        self, failure: Failure, detail: str, again_after_s: float = 0.0
    ) -> CallError:
        self.spending.count("errors")
        self.spending.count(f"errors/{failure}")
        return CallError(failure, detail, again_after_s)


def _answer(response: ChatResponse, schema: type[_Answer]) -> _Answer:
    """Parse an answer; say so where it was stopped and cannot be used for that reason.

    Raises:
        AnswerError: it cannot be used.
    """
    try:
        return parse(response.text, schema)
    except AnswerError as error:
        if response.blocked:
            raise AnswerError(
                f"the service stopped the answer ({response.blocked}): its content "
                "filter or the model refuses to answer this prompt"
            ) from error
        if not response.cut:
            raise
        raise AnswerError(
            f"the answer was cut after {response.tokens_out} tokens, which is all that "
            "an answer may have (llm.max_tokens), so write less"
        ) from error


def make_retrying(
    policy: RetryPolicy, sleep: Callable[[float], None], chance: random.Random
) -> Retrying:
    """Make the loop that repeats an attempt after failures that may pass."""
    pause = wait_exponential(policy.initial_delay_s, max=policy.max_delay_s)

    def wait(state: RetryCallState) -> float:
        told = 0.0
        if state.outcome and isinstance(error := state.outcome.exception(), CallError):
            told = min(error.again_after_s, policy.max_delay_s)
        return told + pause(state) * chance.uniform(0.5, 1.5)

    return Retrying(
        retry=retry_if_exception(
            lambda error: isinstance(error, CallError) and error.failure in PASSING
        ),
        stop=stop_after_attempt(policy.max_attempts),
        wait=wait,
        sleep=sleep,
        reraise=True,
    )
