"""Are skills worth something where the policy has not learnt?

    python -m reskill_jax.experiments.unseen

Plain GRPO trains the warm start on some kinds of tasks only (simple, look, two objects)
for 15 steps. Arms meet the other kinds (heat, cool, clean) for 30 steps, and play them
in houses and with goals that nothing was trained on. Flags: see `attempt.start`.
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
    "unseen",
    "pick_and_place,examine",
    "transform",
    (
        ALONE,
        *ADAPTING,
        *("grpo trained", "reskill trained"),
        *("grpo trained slowly", "reskill trained slowly"),
    ),
    (
        Claim("reskill", ALONE, 0.20),
        *ADAPTING_CLAIMS,
        *(
            Claim(f"reskill {how}", f"grpo {how}", 0.0, "course", surely=True)
            for how in ("trained", "trained slowly")
        ),
    ),
    ALL_GROUPS,
)

if __name__ == "__main__":
    start(EXPERIMENT)
