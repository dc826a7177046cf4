"""What nox-proxy is measured beside: the configurations of nginx and Envoy, and small proxies in Python."""
