"""The two lines that limit a queue and a task; see README.md."""
