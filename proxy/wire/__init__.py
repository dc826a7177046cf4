"""HTTP in and out: the server, headers, the upstream and its transports."""
