"""The encoders, one file each; ``federation.models.registry`` lists them."""
