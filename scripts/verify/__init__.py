"""Own feature files against the published ones, and why they differ: ``make verify``."""
