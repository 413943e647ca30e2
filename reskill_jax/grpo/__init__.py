"""Group-relative policy optimisation: arrays to arrays."""
