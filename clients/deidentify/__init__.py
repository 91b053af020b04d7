"""Copies of a site's images and notes without what tells who they are of."""
