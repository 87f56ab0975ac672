"""What the literature says, and what our trials say of it: every number and sentence made from the records in ``records/``."""
