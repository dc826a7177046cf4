"""The deprecated endpoints, one file each. A new one is a new file and a line here."""

from proxy.contract.changes.connect_nox_user import connect_nox_user
from proxy.contract.version_change import AnyChange

CHANGES: tuple[AnyChange, ...] = (connect_nox_user,)
