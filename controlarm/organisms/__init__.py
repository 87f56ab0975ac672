"""Organisms: tiny language models pretrained from scratch, so that what they already know is known."""
