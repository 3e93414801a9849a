"""The columns of xent: one folder per backend, the same file name per loss in each; columns never import each other."""
