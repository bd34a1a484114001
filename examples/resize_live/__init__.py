"""Changing a limit while its tasks run; see README.md."""
