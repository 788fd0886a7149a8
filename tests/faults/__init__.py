"""Faults on purpose: kills, full disks, clocks, changed bytes. `make test-faults`, or `PYTHONPATH=tests python -m faults --help`."""
