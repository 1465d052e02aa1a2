"""Files of bundles: zips, texts and code in configs, which code is trusted, and the checks of a run."""
