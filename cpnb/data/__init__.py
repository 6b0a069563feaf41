"""Data sets by name: drawn characters, real ones, CIFAR-10 and ImageNet folders.

Knows images and labels, and nothing of networks or training. Start reading at `characters`, whose
`load_dataset` leads to all of them; `glyphs` draws the default one.
"""
