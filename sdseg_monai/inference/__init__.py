"""Segment images: one or many of them, once or several times to measure how sure the model is."""
