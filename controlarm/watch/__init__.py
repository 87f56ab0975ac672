"""A live page of a trial, from its files alone: while it runs, after it, and on somebody's copy."""

from controlarm.watch.page import Sight, export
from controlarm.watch.reader import Watcher

__all__ = ["Sight", "Watcher", "export"]
