"""Texts and labels from files as people have them: no tokens, no models.

files      a file's bytes, unpacked and decoded, or named for what they are
delimited  text to rows: which separator, which quotes
tables     any file or folder of shards to named columns
splits     which files are train, dev and test; the cut of a single file
columns    which columns are texts, label and group
labels     a column of labels to classes or scores
checks     repeats, mirrors, copies across splits
"""
