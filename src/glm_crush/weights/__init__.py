"""Checkpoints in, packed run-time weights out: readers, quantisation, layouts, the packed file, the model store."""
