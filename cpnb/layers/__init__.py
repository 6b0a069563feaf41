"""Factored layers: the paper's four small convolutions, its rivals' layers, and model surgery.

Knows convolutions, and nothing of data or time. Start reading at `cp` (the paper's layer);
`methods` lists all of them, `surgery` puts them into a model.
"""
