"""Readers of what a hospital holds: events, images."""
