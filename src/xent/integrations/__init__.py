"""xent inside the frameworks that people train with; each folder imports its framework when it is used, not before."""
