"""WANDS: which of a few products is exactly what a query asks for."""
