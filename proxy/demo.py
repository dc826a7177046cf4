"""The calls of an old integration, made and shown."""
