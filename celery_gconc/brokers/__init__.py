"""The message broker under a worker, and seen from outside."""
