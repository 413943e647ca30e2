"""ReSkill in JAX: language-model agents that keep what they learn as skills."""
