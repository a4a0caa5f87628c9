"""How an upstream is reached: URLs, spawned processes, the embedded demo. No translation."""
