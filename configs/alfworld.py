"""ReSkill on ALFWorld.

  python -m reskill_jax.main --config=configs/alfworld.py --workdir=runs/a \
      --config.policy.path=models/Qwen3-4B-Instruct-2507
  python -m reskill_jax.main --config=configs/alfworld.py:cpu --workdir=runs/b
  python -m reskill_jax.main --config=configs/alfworld.py:smoke --workdir=runs/c

Without a variant: the published scale. It needs ALFWORLD_DATA and a Hugging Face
directory with the model. Every key is documented in `reskill_jax/defaults.py`.
"""

from ml_collections import ConfigDict

from reskill_jax import defaults

# Builds small houses and starts from a small policy that ships with the package: half
# an hour on two cores.
CPU = {
    "num_steps": 60,
    "env.houses": "small",
    "env.houses_train": 200,
    "env.houses_eval": 48,
    "env.workers": 2,
    "env.timeout_s": 60.0,
    "prompt.wording": "brief",
    "prompt.max_tokens": 624,
    "prompt.actions": False,
    "policy.path": "",
    "policy.dtype": "float32",
    "policy.remat": "dots",
    "policy.logprob_chunk": 768,
    "mesh.fsdp": 1,  # a small policy needs one device
    "warm_start.recipe": "alfworld-small",
    "rollout.tasks_per_step": 6,
    "rollout.max_turns": 16,
    "rollout.max_tokens": 16,
    "rollout.concurrency": 64,
    "engine.max_sequences": 64,
    "engine.block_size": 32,
    "engine.prefill_rows": 16,
    "engine.decode_rows": 16,
    "grpo.minibatches": 2,
    "grpo.learning_rate": 3e-4,  # 1e-3 collapses within five steps
    "grpo.kl_coef": 0.0,  # saves the reference's pass, a quarter of an update
    "grpo.buckets": (512, 768),
    "grpo.tokens_per_microbatch": 3072,
    "strategy.max_skills": 6,
    "strategy.reservoir_min": 32,
    "trial.max_steps": 8,  # small batches and few steps, but large effects
    "trial.effect_sd": 0.15,
    "eval.max_tasks": 48,
    "eval.every": 20,
}
# The same for a minute, for tests.
SMOKE = CPU | {
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
VARIANTS = {"cpu": CPU, "smoke": SMOKE}


def get_config(variant: str = "") -> ConfigDict:
    """Return the experiment's configuration, locked."""
    return defaults.expand(defaults.get_config("alfworld"), variant, VARIANTS)
