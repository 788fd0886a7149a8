"""Texts and labels from files as people have them: no tokens, no models. Imports go down this list only.

checks     rows to frames; repeats, mirrors, copies across splits
splits     which files are train, dev and test; the cut of a single file
labels     a column of labels to classes or scores
columns    which columns are texts, label and group
tables     any file or folder of shards to a table
objects    JSON to a table
cells      rows of cells to a table: the header, what is empty
shards     the parts of a table in a folder
table      a table, its texts and numbers, errors that name a row
delimited  text to rows: which separator, which quotes
names      what people call columns and splits
files      a file's bytes, unpacked and decoded, or named for what they are
"""
