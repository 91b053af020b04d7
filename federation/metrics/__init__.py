"""Every metric from mergeable, suppressed counts: the only form in which evaluation leaves a site.

See also:
    ``summary``: what a site sends; ``suppression``: what it withholds;
    ``discrimination``, ``calibration``, ``utility``: the metrics; ``intervals``: their uncertainty.
"""
