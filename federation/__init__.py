"""What the coordinator and the sites agree on: studies, messages, models, sums and metrics.

Nothing here opens a network connection or a hospital's file.
"""
