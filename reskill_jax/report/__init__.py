"""What people see of a run: metrics, progress, files to read, summaries."""
