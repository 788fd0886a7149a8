"""Pairs by the billion: encoded collections on disk, jobs in parts, and `Scorer` for a few texts."""
