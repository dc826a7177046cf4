"""`python -m proxy` is `nox-proxy`."""

from proxy.cli import main

main()
