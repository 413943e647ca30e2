"""Clients of language models: backends, retries, budgets, the call log, parsing."""
