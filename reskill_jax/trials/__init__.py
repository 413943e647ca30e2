"""The trial that decides between banks: assignment, statistics, decision."""
