"""dipair-lab: which small model can stand in for a cross-encoder, at what quality and at what speed.

The way of the data: `tasks` (texts, labels) -> `distill` (teacher, student) -> `quality` and `speed` -> one row in `results`
-> `tradeoff`, `report`, `explorer`. Notebooks call the library, `suite` runs the notebooks.
"""

__version__ = "0.1.0"
