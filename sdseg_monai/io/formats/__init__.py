"""Formats of volume files: their headers, read strictly, and where their voxels lie."""
