"""What runs at the coordinator: rounds, aggregation, evaluation, the report."""
