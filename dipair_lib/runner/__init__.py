"""The suites: a grid of notebooks through papermill, and what one notebook needs of its run."""
