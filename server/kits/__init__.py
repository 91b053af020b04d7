"""Templates of what a start kit holds beside keys."""
