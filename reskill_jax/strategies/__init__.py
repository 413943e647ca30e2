"""One strategy per method: which banks are in play, and what is learnt from episodes."""
