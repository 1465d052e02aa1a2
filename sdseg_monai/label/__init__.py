"""A MONAI Label server of the installed bundles: segment, correct and retrain from the viewer.

Needs MONAI Label, which has an environment of its own: ``make label-env``. Nothing outside this package imports it.
"""
