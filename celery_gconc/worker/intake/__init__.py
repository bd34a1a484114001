"""From which queues a worker takes messages, and what goes back to them."""
