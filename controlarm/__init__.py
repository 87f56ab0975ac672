"""Placebo-controlled trials of RLVR: how much of a gain did the reward teach?"""

__version__ = "0.1.0"
