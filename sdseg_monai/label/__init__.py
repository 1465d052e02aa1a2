"""A MONAI Label server of the installed bundles: segment, correct and fine-tune from the viewer.

It needs MONAI Label, which is installed in its own environment by ``make label-env``. Only this package imports it.
"""
