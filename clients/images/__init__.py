"""Images of a site: decoding, views, selection, linking to patients."""
