"""Modules that vLLM servers load; the trainer itself imports only `weight_files`."""
