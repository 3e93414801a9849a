"""The rules: one file for each family, listed in `_registry.py`. README.md here says how to write one."""
