"""What runs inside vLLM servers, in their environment; we use `weight_files` only."""
