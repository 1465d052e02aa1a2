"""What the benchmarks share: studies and their runs, scores, costs, figures, and tables in documents."""
