"""Built-in tasks: docstrings, GLUE, MS MARCO, product search. Each gives a `Task`; `data.loading` knows them
by name.
"""
