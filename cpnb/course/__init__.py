"""A class: assignments that grade themselves, and the grading of strangers' code.

Knows how notebooks are run, and nothing of networks. Start reading at `marks` (what a question's
tests are written in) and `grading` (one submission, from notebook to points); `grade` and
`assignments` are commands.
"""
