"""What stops the demo and isn't its subject: no Redis, a worker that doesn't start."""


class Problem(Exception):
    """Told to the person who runs the demo, in one line; exit code 2."""
