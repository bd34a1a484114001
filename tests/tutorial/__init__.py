"""The tutorial works by its text alone."""
