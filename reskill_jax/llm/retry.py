"""How services fail, when a call is repeated, and when a service is left alone."""

import math
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from enum import StrEnum


class Failure(StrEnum):
    """Why a call gave no answer; closed, so that metrics can count on it."""

    UNREACHABLE = "unreachable"
    TIMEOUT = "timeout"
    RATE_LIMIT = "rate_limit"
    SERVER = "server"
    REFUSED = "refused"
    BAD_RESPONSE = "bad_response"
    BAD_ANSWER = "bad_answer"
    BUDGET = "budget"
    CIRCUIT_OPEN = "circuit_open"
    NOT_RECORDED = "not_recorded"


# Failures that the next attempt may not meet any more.
PASSING = {
    Failure.UNREACHABLE,
    Failure.TIMEOUT,
    Failure.RATE_LIMIT,
    Failure.SERVER,
    Failure.BAD_RESPONSE,
}


class CallError(Exception):
    """A call without an answer: `failure` for programs, the message for people.

    `again_after_s` are the seconds for which the service asked to be left alone.
    """

    def __init__(self, failure: Failure, detail: str, again_after_s: float = 0.0):
        super().__init__(f"{failure}: {detail}")
        self.failure = failure
        self.again_after_s = again_after_s


@dataclass(frozen=True)
class RetryPolicy:
    """How often, and after which pauses, a failing service is asked again.

    Attributes:
        max_attempts: for one call, the first included.
        initial_delay_s: seconds before the second attempt, doubled before each further
            one and multiplied by a random number between 0.5 and 1.5; what a service
            asks for in its answer (Retry-After) comes before that.
        max_delay_s: most seconds of either.
        failure_threshold: failed attempts in a row that open the circuit; being told to
            slow down is no failure in this sense.
        cooldown_s: seconds for which an open circuit refuses calls; then one call may
            try, and if it fails the circuit is open for twice as long, an hour at most.
    """

    max_attempts: int = 4
    initial_delay_s: float = 1.0
    max_delay_s: float = 30.0
    failure_threshold: int = 20
    cooldown_s: float = 60.0

    def __post_init__(self) -> None:
        """Refuse counts below 1, negative times, and times that no clock can wait."""
        for name, value in vars(self).items():
            least = 1 if name in ("max_attempts", "failure_threshold") else 0
            if not value >= least:
                raise ValueError(f"{name}={value}: must be {least} or more")
            if name.endswith("_s") and value > 1e6:
                raise ValueError(f"{name}={value}: must be 1e6 seconds or less")


class Breaker:
    """Stops calls to a service that keeps failing; for many threads.

    It is what all calls together know about the service. The library that repeats a
    call (tenacity, see `caller`) knows that one call only, and has no breaker.
    """

    def __init__(self, retry: RetryPolicy, clock: Callable[[], float]):
        self._retry = retry
        self._clock = clock
        self._lock = threading.Lock()
        self._failed = 0
        self._opened = 0  # times in a row
        self._until = 0.0
        self._probing = False

    def seconds_left(self) -> float:
        """Return for how long calls are refused; 0 lets the caller through.

        Of the callers that find a cooldown over, one is let through as a probe.
        """
        with self._lock:
            if not self._opened:
                return 0.0
            left = self._until - self._clock()
            if left <= 0:
                self._probing = True
                self._until = self._clock() + self._cooldown_s()
            return max(left, 0.0)

    def succeeded(self) -> None:
        """Note an answer: the service works."""
        with self._lock:
            self._failed = self._opened = 0
            self._probing = False

    def failed(self) -> None:
        """Note a failed attempt.

        Those that were under way when the circuit opened do not count again.
        """
        with self._lock:
            self._failed += 1
            if self._probing or self._failed == self._retry.failure_threshold:
                self._opened += 1
                self._until = self._clock() + self._cooldown_s()
            self._probing = False

    def _cooldown_s(self) -> float:
        return min(self._retry.cooldown_s * 2 ** min(self._opened - 1, 12), 3600.0)


def again_after(error: Exception) -> float:
    """Return for how many seconds a service asks to be left alone; 0: it does not say.

    `Retry-After` holds seconds or a date (RFC 9110, 10.2.3); OpenAI's own header
    milliseconds. What is neither says nothing.
    """
    response = getattr(error, "response", None)
    headers = getattr(response, "headers", None)
    if isinstance(response, Mapping):  # botocore's, with names in lower case
        headers = response.get("ResponseMetadata", {}).get("HTTPHeaders")
    if not isinstance(headers, Mapping):
        return 0.0
    for name, unit in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        seconds = _seconds(str(headers.get(name, ""))) * unit
        if 0 < seconds < math.inf:
            return seconds
    return 0.0


def _seconds(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        pass
    try:
        return parsedate_to_datetime(text).timestamp() - time.time()
    except (ValueError, OverflowError):
        return 0.0


def classify(error: Exception) -> Failure:
    """Return which kind of failure an SDK's exception is.

    All SDKs put the HTTP status on the exception, botocore into its `response`, and the
    name of every time-out has "Timeout" in it.
    """
    status = getattr(error, "status_code", None)
    if status is None and isinstance(getattr(error, "response", None), dict):
        metadata = error.response.get("ResponseMetadata", {})  # type: ignore[attr-defined]
        status = metadata.get("HTTPStatusCode")
    if isinstance(status, int) and status >= 400:
        known = {429: Failure.RATE_LIMIT, 408: Failure.TIMEOUT, 504: Failure.TIMEOUT}
        other = Failure.SERVER if status >= 500 else Failure.REFUSED
        return known.get(status, other)
    if isinstance(error, TimeoutError) or "Timeout" in type(error).__name__:
        return Failure.TIMEOUT
    # JSON of a wrong shape, no JSON at all, or too much or too deep of it.
    wrong = (ValueError, LookupError, TypeError, AttributeError, RecursionError)
    if isinstance(error, wrong):
        return Failure.BAD_RESPONSE
    return Failure.UNREACHABLE
