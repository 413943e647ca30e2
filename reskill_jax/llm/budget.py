"""What may be spent on a language model, and what has been spent."""

import threading
from collections import Counter
from dataclasses import dataclass, field

from reskill_jax.llm.backends import ChatResponse


@dataclass(frozen=True)
class Budget:
    """What may be spent; 0 is no limit.

    The tokens of an answer are known when it is there: calls that are under way when a
    limit is reached may pass it.

    Attributes:
        cycle_calls: for one proposal, as `cycle_tokens` and `cycle_dollars`.
        run_calls: for the whole run, as `run_tokens` and `run_dollars`.
        input_price: dollars per million tokens of prompts.
        output_price: dollars per million tokens of answers.
    """

    cycle_calls: int = 60
    cycle_tokens: int = 500_000
    cycle_dollars: float = 0.0
    run_calls: int = 0
    run_tokens: int = 0
    run_dollars: float = 0.0
    input_price: float = 0.0
    output_price: float = 0.0

    def __post_init__(self) -> None:
        """Refuse negative values, and limits in dollars without prices."""
        for name, value in vars(self).items():
            if not value >= 0:
                raise ValueError(f"{name}={value}: must be 0 or more")
        for name in ("cycle_dollars", "run_dollars"):
            if getattr(self, name) and not self.input_price + self.output_price:
                raise ValueError(
                    f"{name}={getattr(self, name)} needs input_price and output_price:"
                    " set them to dollars per million tokens"
                )

    def dollars(self, response: ChatResponse) -> float:
        """Return what an answer costs."""
        cost = (
            response.tokens_in * self.input_price
            + response.tokens_out * self.output_price
        )
        return cost / 1e6


@dataclass
class Spending:
    """What was spent, and what was counted since `take`; safe for many threads."""

    budget: Budget
    run: Counter[str] = field(default_factory=Counter)
    cycle: Counter[str] = field(default_factory=Counter)
    news: Counter[str] = field(default_factory=Counter)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def reserve(self) -> str:
        """Count one call; where a limit is reached, count nothing and name it."""
        with self.lock:
            for scope in ("cycle", "run"):
                for unit in ("calls", "tokens", "dollars"):
                    limit = getattr(self.budget, f"{scope}_{unit}")
                    spent = getattr(self, scope)[unit]
                    if limit and spent >= limit:
                        return f"{scope}_{unit}={limit:g}"
            self._add("calls", 1)
            return ""

    def settle(self, response: ChatResponse, seconds: float) -> None:
        """Count what an answer cost."""
        with self.lock:
            self._add("tokens", response.tokens_in + response.tokens_out)
            self._add("dollars", self.budget.dollars(response))
            self.news["seconds"] += seconds  # type: ignore[assignment]
            self.cycle["answers"] += 1
            self.cycle["seconds"] += seconds  # type: ignore[assignment]

    def count(self, name: str) -> None:
        """Count an event for the metrics."""
        with self.lock:
            self.news[name] += 1

    def take(self) -> dict[str, float]:
        """Return what was counted since the last call, by name."""
        with self.lock:
            news, self.news = self.news, Counter()
        return {name: float(value) for name, value in news.items() if value}

    def _add(self, unit: str, amount: float) -> None:
        for counter in (self.run, self.cycle, self.news):
            counter[unit] += amount  # type: ignore[assignment]
