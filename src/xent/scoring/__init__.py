"""`xent score`: surprisal of every token of a corpus, or of every row, under a model.

corpus ─ texts (_corpora.py)  ─ shards of consecutive texts: a pure function of the corpus (score.py)
   └─ tokens (_hub_models.py, _run_models.py) ─ windows (_windows.py) ─ batches (_text_scores.py)
        └─ hidden states ─ logits of a few rows at a time ─ nats, rank, entropy (_surprisal.py)
             └─ a file for each shard, whole or not there (_score_files.py), joined at the end (_shard_work.py)
                  ├─ which process scores which shard, and what they tell each other (_sharing.py)
                  ├─ totals: sums over tokens, never a mean of means (_totals.py)
                  └─ a page with every token coloured (_heat_map.py)
"""
