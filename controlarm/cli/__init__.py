"""The command line. Errors are one paragraph; what needs torch imports it late, so that reports and help do not.

The modules are in the order in which ``controlarm --help`` lists their commands.
"""

from controlarm.cli import trials, folders, watching, logs, models, sets, organisms  # noqa: F401, I001  each adds its commands
from controlarm.cli.common import app

__all__ = ["app"]
