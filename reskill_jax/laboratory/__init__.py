"""The small policy of the laboratory: demonstrations, warm start, known proposals."""
