"""A first result on a fresh machine."""
