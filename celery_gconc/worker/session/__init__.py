"""One session with Redis: its thread, its calls, its notices."""
