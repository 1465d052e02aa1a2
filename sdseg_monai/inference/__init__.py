"""From an image to its mask: one image or many, once or several times to see how sure a model is."""
