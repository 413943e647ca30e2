"""Supervised warm start: demonstrations that obey skills, and the training on them."""
