"""Image and note files that no event names, tied to patients by the site file's rules."""
