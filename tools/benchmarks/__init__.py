"""What the benchmark measures, and how: `problem` is trained or pruned by the
subjects that `subjects` lists; `measurement` runs them, each in a process of
its own, in turn; `summary` shows what came of it. `campaign` is what
`tools/simulate_campaign.py` lays out and runs."""
