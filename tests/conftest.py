"""Settings of all tests."""

from hypothesis import settings

# The same cases in every run: what CI finds can be found again.
settings.register_profile("deterministic", derandomize=True)
settings.load_profile("deterministic")
