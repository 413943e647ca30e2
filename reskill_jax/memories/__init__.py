"""What methods keep in words, and how it is found again; no jax, no decisions."""
