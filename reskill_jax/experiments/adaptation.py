"""What do methods find out for the warm start, which learns no more?

    python -m reskill_jax.experiments.adaptation

Arms meet all kinds of tasks for 30 steps, and play held-out houses. Flags: see
`attempt.start`.
"""

from reskill_jax.benchmarks.runs import ALL_GROUPS
from reskill_jax.experiments.arms import (
    ADAPTING,
    ADAPTING_CLAIMS,
    ALONE,
    Claim,
    Experiment,
)
from reskill_jax.experiments.attempt import start

EXPERIMENT = Experiment(
    "adaptation",
    "",
    "",
    (
        ALONE,
        *ADAPTING,
    ),
    (
        Claim("reskill", ALONE, 0.12),
        *ADAPTING_CLAIMS,
    ),
    ALL_GROUPS,
)

if __name__ == "__main__":
    start(EXPERIMENT)
