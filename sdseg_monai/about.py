"""What this package is: its version, and what it may be used for."""

__version__ = "0.7.0"
RESEARCH_ONLY = "Research use only: not a medical device, not for diagnosis or treatment."
