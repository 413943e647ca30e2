"""What runs inside vLLM servers, in their environment; never imported by ours."""
