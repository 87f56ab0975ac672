"""From the files of a trial to every number of its report. Reads files, never a model: no torch here."""
