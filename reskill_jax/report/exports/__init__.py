"""A run's records in formats that other programs read; see docs/exports.md."""
