"""What benchmarks/torture.py does to the package: groups of tries, each of which is right or has failed."""
