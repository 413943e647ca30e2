"""From tasks to episodes: prompts, engines and the collector."""
