"""The command ``sdseg demo``: a first result on a new computer."""
