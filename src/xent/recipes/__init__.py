"""Recipes: whole training runs, one readable file each, with the loop in sight.

A recipe trains a small model on data that is already there, writes what it did to a run directory, and can go on
after any interruption with the same result to the last bit. `xent train RECIPE` runs one from the command line.
"""
