"""Experiments over study keys and seeds: privacy budgets against accuracy, and others."""
