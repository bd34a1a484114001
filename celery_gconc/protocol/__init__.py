"""What a session and Redis say to each other; one codec, and the Lua."""
