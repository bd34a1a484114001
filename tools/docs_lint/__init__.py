"""``python -m tools.docs_lint``: what the documentation says is there. ``make check`` runs it."""
