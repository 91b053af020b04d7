"""Differential privacy: accounting, clipped sums, noise. What a reviewer recomputes starts here."""
