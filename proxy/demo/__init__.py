"""`nox-proxy demo`: the proxy at work between an old integration and a simulated v2."""
