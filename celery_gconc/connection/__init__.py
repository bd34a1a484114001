"""How the coordination Redis is reached. Knows no limit."""
