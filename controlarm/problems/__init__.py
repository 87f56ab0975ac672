"""Problem sets, one file each."""
