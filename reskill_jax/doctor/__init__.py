"""`--mode=doctor`: proves on a new host, in minutes, that a run's parts work there."""
