"""The permits of one session, in memory."""
