"""All groups of tries, in the order of the page."""

from torment import equality, folder_runs, hostile, mutants, names, offline, server, training

GROUPS = (
    training.GROUP,
    folder_runs.GROUP,
    server.KILLS,
    mutants.GROUP,
    hostile.GROUP,
    names.GROUP,
    server.REQUESTS,
    offline.GROUP,
    equality.GROUP,
)
