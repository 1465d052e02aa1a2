"""docs/reliability.md from the figures of benchmarks/torture.py."""


def write_page(figures):
    return ""
