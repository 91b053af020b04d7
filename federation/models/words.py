"""Words of notes as one tensor: (patients, words, pieces) int64, places counted from 1.

A word's pieces are itself, the pair that it begins, and trigrams of its letters, each hashed into
the same buckets; 0 is a piece that it does not have. A word of zeros is padding, and pads each
patient's words at the end.
"""

PADDING = 0
PIECES = 5
