"""Stand-in v1 and v2 services, for the demo and the tests. No secret in them is real."""
