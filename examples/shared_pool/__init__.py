"""Tasks of two queues that share one resource, and one that needs two; see README.md."""
