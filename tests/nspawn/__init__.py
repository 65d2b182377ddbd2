"""The Debian package in a Debian that boots under systemd-nspawn: ``make test-system``. Root alone can do that."""
