"""Text environments behind one protocol, and the worker pool that runs them."""
