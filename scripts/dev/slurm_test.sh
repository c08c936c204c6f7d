#!/usr/bin/env bash
# Real Slurm and Charliecloud on this machine (`make slurm-test`): tests/scripts/test_slurm.py, after installing what it
# wants where that is possible (root, Debian or Ubuntu). What is lacking then is skipped, with its reason.
set -euo pipefail
cd "$(dirname "$0")/../.."
for program in slurmctld munged ch-run; do
    command -v "$program" >/dev/null && continue
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        echo "slurm-test: installing slurm-wlm munge charliecloud"
        { apt-get update && apt-get install -y --no-install-recommends slurm-wlm munge charliecloud; } >/dev/null ||
            echo "slurm-test: not to be had from this machine's package sources"
    else
        echo "slurm-test: no $program, and not root on Debian or Ubuntu to install it"
    fi
    break
done
exec .venv/bin/python -m pytest -rs tests/scripts/test_slurm.py
