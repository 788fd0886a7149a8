"""Texts and labels: a person's files as they have them, built-in tasks, synthetic and unlabelled rows. Each
becomes a `Task`.
"""
