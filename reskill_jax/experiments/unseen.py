"""Are skills worth something where the policy has not learnt?

    python -m reskill_jax.experiments.unseen

Plain GRPO trains the warm start on some kinds of tasks only (simple, look, two objects)
for 15 steps. Arms meet the other kinds (heat, cool, clean) for 30 steps, and play them
in houses and with goals that nothing was trained on. Two arms have a policy that
ReSkill trained on the first kinds. Flags: see `attempt.start`.
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
        *(f"{ALONE} after reskill", "reskill after reskill"),
    ),
    (
        Claim("reskill", ALONE, 0.20),
        *ADAPTING_CLAIMS,
        Claim("reskill trained", "grpo trained", 0.0, "course"),
        Claim("reskill after reskill", "reskill", 0.0),
    ),
    ALL_GROUPS,
)

if __name__ == "__main__":
    start(EXPERIMENT)
