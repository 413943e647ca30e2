"""Commands that measure: ``python -m reskill_jax.benchmarks.<name>``."""
