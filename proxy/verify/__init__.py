"""`nox-proxy verify`: whether a deployment keeps the contract, seen from outside."""
