"""ReSkill on ScienceWorld, at the published scale unless a variant says otherwise.

  python -m reskill_jax.main --config=configs/scienceworld.py --workdir=runs/a \
      --config.policy.path=models/Qwen3-4B-Instruct-2507
  python -m reskill_jax.main --config=configs/scienceworld.py:smoke --workdir=runs/b

All need the extra `scienceworld`, which brings the simulator and a Java for it; all
but `cpu` and `smoke` need a Hugging Face directory with the model.
docs/environments.md has more.
"""

from ml_collections import ConfigDict

from reskill_jax import defaults

# The published tasks, reward (10 above a score of 70), lengths and turns. The published
# mini-batch has 64 turns, a few episodes; ours have whole groups, one at a time.
SCALE = {
    "env.tasks": "paper",
    "env.per_task": 450,  # as many as test-conductivity has; power-component has 10
    "env.timeout_s": 60.0,
    "prompt.max_tokens": 6000,
    "prompt.history": 30,
    "rollout.max_turns": 30,
    "rollout.max_tokens": 1024,
    "grpo.reward_scale": 10.0,
    "grpo.minibatches": 16,
    "eval.splits": ("test", "unseen"),
    "eval.max_tasks": 64,
    "eval.every": 15,
}
# The published equations. How tasks were drawn is not published.
PAPER = defaults.PAPER
OFFICIAL = {**defaults.OFFICIAL, "eval.max_tasks": 32}
# Tasks of a few commands, and a small policy that has learnt to read skills there.
CPU = {
    **defaults.LAPTOP,
    "num_steps": 30,
    "env.tasks": "short",
    "env.per_task": 60,
    "prompt.wording": "brief",
    "prompt.max_tokens": 624,
    "prompt.actions": False,
    "policy.path": "",
    "policy.logprob_chunk": 768,
    "warm_start.recipe": "scienceworld-short",
    "rollout.tasks_per_step": 6,
    "rollout.max_turns": 8,
    "rollout.max_tokens": 24,
    "rollout.concurrency": 48,
    "grpo.reward_scale": 1.0,
    "grpo.minibatches": 2,
    "grpo.learning_rate": 3e-4,
    "grpo.kl_coef": 0.0,
    "grpo.buckets": (512, 768),
    "grpo.tokens_per_microbatch": 3072,
    "strategy.max_skills": 6,
    "strategy.reservoir_min": 32,
    "eval.max_tasks": 50,
    "eval.every": 15,
}
# A random policy for a minute, for tests.
SMOKE = {
    **defaults.LAPTOP,
    "num_steps": 3,
    "env.tasks": "short",
    "env.per_task": 4,
    "env.heap_mb": 512,
    "policy.path": "random:tiny",
    "prompt.wording": "brief",
    "prompt.max_tokens": 768,
    "rollout.tasks_per_step": 2,
    "rollout.max_turns": 4,
    "rollout.max_tokens": 16,
    "rollout.concurrency": 8,
    "engine.max_sequences": 8,
    "grpo.group_size": 4,
    "grpo.minibatches": 2,
    "grpo.kl_coef": 0.0,
    "grpo.buckets": (1024,),
    "grpo.tokens_per_microbatch": 2048,
    "strategy.reservoir_min": 4,
    "eval.max_tasks": 3,
    "eval.every": 0,
    "checkpoint.every": 1,
}
# With `cpu`: begin with the policy that was warmed on two worlds, this one and another.
BOTH = {"warm_start.recipe": "alfworld-scienceworld"}
SMALL = {"cpu": CPU, "smoke": SMOKE, "both": BOTH}
VARIANTS = {"paper": PAPER, "official": OFFICIAL, **SMALL}


def get_config(variant: str = "") -> ConfigDict:
    """Return the experiment's configuration, locked."""
    config = defaults.get_config("scienceworld")
    config.update_from_flattened_dict(SCALE)
    return defaults.expand(config, variant, VARIANTS)
