"""The vLLM engine: servers beside the trainer, and how weights reach them."""
