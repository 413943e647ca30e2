"""Stores that methods keep beside the policy: entries, and what is found in them."""
