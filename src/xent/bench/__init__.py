"""How fast, how large and how exact the losses are beside their peers, measured in one process.

A *question* (`cross_entropy.py`, `linear.py`) lists *cases*; in the *contest* of a case every *contestant* does the
same work on the same inputs. `contest.py` says how time is taken, `memory.py` how memory is.
"""
