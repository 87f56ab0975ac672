"""``python -m controlarm``."""

from controlarm.cli import app

app()
