"""Each Lua script against a real Redis, through the store."""
