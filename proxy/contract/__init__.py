"""WHAT the versions say: messages, envelopes, errors and version changes. Pure."""
