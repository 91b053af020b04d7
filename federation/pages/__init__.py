"""What HTML pages are made of: of a run, of a sweep, of a site's check. One file, no network."""
