"""One job, here or in the container: `python -m scripts.launch JOB`. Standard library only."""
