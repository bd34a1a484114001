"""Examples to run and to copy from. Start with ``python -m examples.demo``."""
