"""Engines turn (protocol, runs) into run folders; everything after an engine reads files only."""
