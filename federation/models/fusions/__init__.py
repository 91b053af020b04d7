"""The fusions, one file each; ``federation.models.registry`` lists them.

Each takes the encodings and the presence of every modality, and returns logits: (patients,) of a
task with one output, else (patients, outputs). What stands in an absent modality's row has no
influence on the logits; the model sees to it that it is finite.
"""
