"""A store that refuses a writer whose permit is older than one it has seen; see README.md."""
