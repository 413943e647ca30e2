"""ReSkill on ALFWorld, at the published scale unless a variant says otherwise.

  python -m reskill_jax.main --config=configs/alfworld.py --workdir=runs/a \
      --config.policy.path=models/Qwen3-4B-Instruct-2507
  python -m reskill_jax.main --config=configs/alfworld.py:cpu --workdir=runs/b

`cpu` and `smoke` build their own houses; all else needs ALFWORLD_DATA and a Hugging
Face directory with the model. `reskill_jax/defaults.py` documents every key.
"""

from ml_collections import ConfigDict

from reskill_jax import defaults

# The published reward of a success is 10. The published mini-batch has 64 turns, about
# two episodes; ours have whole groups, so that one group is the nearest.
REWARD = {"grpo.reward_scale": 10.0, "grpo.minibatches": 16}
PAPER = {**defaults.PAPER, **REWARD}
OFFICIAL = {**defaults.OFFICIAL, **REWARD, "eval.max_tasks": 32}
# Small houses, and a small policy that ships with the package: half an hour on two
# cores.
CPU = {
    **defaults.LAPTOP,
    "num_steps": 60,
    "env.houses": "small",
    "env.houses_train": 200,
    "env.houses_eval": 48,
    "prompt.wording": "brief",
    "prompt.max_tokens": 624,
    "prompt.actions": False,
    "policy.path": "",
    "policy.logprob_chunk": 128,
    "warm_start.recipe": "alfworld-remarks",
    "rollout.tasks_per_step": 6,
    "rollout.max_turns": 16,
    "rollout.max_tokens": 16,
    "rollout.concurrency": 64,
    "grpo.minibatches": 2,
    "grpo.learning_rate": 3e-4,  # 1e-3 collapses within five steps
    "grpo.kl_coef": 0.0,  # saves the reference's pass, a quarter of an update
    "grpo.drop_zero_variance": True,  # saves a third of it, and costs nothing seen
    "grpo.buckets": (512, 768),
    "grpo.tokens_per_microbatch": 1536,
    "strategy.max_skills": 6,
    "strategy.reservoir_min": 32,
    "eval.max_tasks": 48,
    "eval.every": 20,
}
# The same for a minute, for tests; most of its small groups tie, and yet it trains.
SMOKE = {
    **CPU,
    "grpo.drop_zero_variance": False,
    "num_steps": 3,
    "env.houses_train": 4,
    "env.houses_eval": 3,
    "rollout.tasks_per_step": 2,
    "rollout.max_turns": 6,
    "rollout.concurrency": 8,
    "engine.max_sequences": 8,
    "grpo.group_size": 4,
    "strategy.reservoir_min": 4,
    "eval.max_tasks": 3,
    "checkpoint.every": 1,
}
# Adapters on a chat model of a few hundred million parameters (docs/models.md): on two
# cores, steps of minutes. Name the model in policy.path.
CHAT = {
    **CPU,
    "warm_start.recipe": "",
    "policy.lora.rank": 16,
    "prompt.max_tokens": 1000,
    "rollout.tasks_per_step": 2,
    "rollout.max_turns": 12,
    "rollout.max_tokens": 24,
    "rollout.concurrency": 16,
    "engine.max_sequences": 16,
    # A call costs as much as all its rows, and few of 16 would be in use.
    "engine.prefill_rows": 4,
    "engine.decode_rows": 8,
    "grpo.learning_rate": 1e-4,
    "grpo.buckets": (512, 768, 1024),
    "grpo.tokens_per_microbatch": 1024,
    "strategy.reservoir_min": 8,  # two tasks a step give at most four records
    "eval.max_tasks": 24,
    "checkpoint.every": 1,
}
# With `cpu`: begin with the policy that was warmed on two worlds, this one and another.
BOTH = {"warm_start.recipe": "alfworld-scienceworld"}
# With `cpu`: begin with a policy that any text moves, whatever it says, since it was
# shown none where less was demonstrated.
BARE = {"warm_start.recipe": "alfworld-small"}
SMALL = {"cpu": CPU, "smoke": SMOKE, "both": BOTH, "bare": BARE, "chat": CHAT}
VARIANTS = {"paper": PAPER, "official": OFFICIAL, **SMALL}


def get_config(variant: str = "") -> ConfigDict:
    """Return the experiment's configuration, locked."""
    return defaults.expand(defaults.get_config("alfworld"), variant, VARIANTS)
