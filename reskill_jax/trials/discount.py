"""How long the evidence of a trial stays true: the memory M, from completed trials.

The posterior of an arm forgets at the rate w = M / (M + n) when n new episodes arrive
(paper, appendix), because the policy changes meanwhile. M is the value under which the
counts of all completed trials are most likely.
"""

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from reskill_jax.trials import thompson
from reskill_jax.trials.trial_config import TrialConfig

if TYPE_CHECKING:
    from reskill_jax.trials.trial import Trial

_GRID = np.append(thompson.MEMORY_GRID, np.inf)
_MIN_TRIALS = 2  # completed trials before M is estimated

_design_effect = thompson.on_host(thompson.design_effect)
_largest_plausible = thompson.on_host(thompson.largest_plausible)


@dataclass
class MemoryEstimate:
    """Estimate of M, after how many new episodes old evidence has halved.

    Attributes:
        scores: log-likelihood of each M of `thompson.MEMORY_GRID`, then of infinity,
            summed over completed trials.
        trials: how many trials it rests on.
    """

    scores: list[float] = field(default_factory=lambda: [0.0] * len(_GRID))
    trials: int = 0

    def add(self, trial: "Trial") -> None:
        """Take in a completed trial.

        In paired mode neither the mix of tasks nor what is thought beforehand is
        mistaken for drift: evidence is divided by the design effect, the first step is
        not scored and the prior not forgotten.
        """
        paired = trial.config.mode == "paired"
        successes, episodes = np.moveaxis(trial.padded_counts(), -1, 0)  # [T, B, K]
        effect = _design_effect(successes, episodes) if paired else np.array(1.0)
        score = thompson.on_host(thompson.log_likelihood, paper=not paired)
        scores = score(successes.sum(1), episodes.sum(1), _GRID, effect)
        self.scores = (np.array(self.scores) + scores).tolist()
        self.trials += 1

    def value(self, config: TrialConfig) -> float:
        """Return M for the next trial; infinite until two trials are complete.

        Paper mode takes the most likely M up to 2000, the smallest of equals. Paired
        mode takes the `thompson.largest_plausible`.
        """
        if self.trials < _MIN_TRIALS or config.frozen_policy:
            return math.inf
        scores = np.array(self.scores)
        if config.mode == "paper":
            return float(_GRID[np.argmax(scores[:-1])])
        return float(_largest_plausible(scores, _GRID))
