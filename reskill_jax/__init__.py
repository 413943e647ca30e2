"""ReSkill in JAX: language-model agents that keep what they learn as skills."""

__version__ = "0.1.0"
