"""The common parts of the benchmarks: studies and their runs, scores, costs, figures, and tables in documents."""
