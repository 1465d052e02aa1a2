"""What the tests are made of: networks, volumes, DICOM, checkpoints of others, and the real programs beside ours."""
