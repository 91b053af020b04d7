"""Distribution shifts between sites: composable, each with a strength, recorded and measured.

See also:
    ``plan``: the file; ``kind`` and ``registry``: what a shift is, and which there are;
    ``reshape``: on any folder of sites; ``synthetic``: on hospitals that are yet to be drawn;
    ``record``: shifts.json. docs/shifts.md has each kind's meaning.
"""
