"""Skills, banks, SKILL.md files, and the trial that decides between banks."""
