"""Training, fine-tuning and evaluation, and fits of single layers to data.

Knows models and data, and nothing of time. Start reading at `finetuning`, which is the second half
of the paper's method; `patches` fits a layer without labels.
"""
