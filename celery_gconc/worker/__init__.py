"""One worker. Only the extension reaches in here from outside."""
