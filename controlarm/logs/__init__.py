"""Other people's rollouts: what trainers and evaluators leave behind, read row by row and never trusted.

A log is a file or a folder. Its format is told by its content (`formats`), its fields by their names or by the reader's
own mapping; a row that cannot be used is a `Damage` with its place, and reading goes on behind it.
"""

from controlarm.logs.formats import FORMATS, Log, open_log
from controlarm.logs.rows import Damage, Fields, Row

__all__ = ["FORMATS", "Damage", "Fields", "Log", "Row", "open_log"]
