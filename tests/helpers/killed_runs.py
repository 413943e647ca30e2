"""Kills runs in this process, between a step and its checkpoint."""

from reskill_jax import train


class KilledError(Exception):
    """Ends a run."""


def killed_at(step, monkeypatch):
    """Let the next run be killed when it has logged a step, the first time."""

    class Logbook(train.Logbook):
        def step(self, number, *arguments):
            super().step(number, *arguments)
            if number == step:
                raise KilledError

    monkeypatch.setattr(train, "Logbook", Logbook)
