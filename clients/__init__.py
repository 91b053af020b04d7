"""What runs inside a hospital. Patient data enters here and does not leave."""
