"""Run the command in the tests' own process."""

from sdseg_monai.cli import main


def run(capsys, *arguments):
    """Return (exit code, stdout, stderr)."""
    code = main([str(a) for a in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err
