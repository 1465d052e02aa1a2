"""All groups of tries, in the order of the page."""

from torment import folder_runs, mutants, training

GROUPS = (training.GROUP, folder_runs.GROUP, mutants.GROUP)
