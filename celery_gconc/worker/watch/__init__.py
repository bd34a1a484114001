"""What a worker watches itself for."""
