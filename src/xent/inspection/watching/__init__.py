"""`xent.watch`: a training run written down while it goes on, as JSON lines (docs/watch.md)."""
