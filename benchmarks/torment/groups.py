"""All groups of tries, in the order of the page."""

from torment import folder_runs, hostile, mutants, names, training

GROUPS = (training.GROUP, folder_runs.GROUP, mutants.GROUP, hostile.GROUP, names.GROUP)
