"""Test data and programs: networks, volumes, DICOM, checkpoints of other projects, and real servers and browsers."""
