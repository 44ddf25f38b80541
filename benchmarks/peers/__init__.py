"""The peer engines the figures are measured beside, and the models they run."""
