"""Why a task waits, what is wrong, what would be."""
