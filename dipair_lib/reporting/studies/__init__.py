"""One choice at a time: rows that differ in one parameter, compared on the same test rows and seeds."""
