"""The benchmark kit: every figure is a ratio of two runs that alternate on the same machine. See ``run.py``."""
