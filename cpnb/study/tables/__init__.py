"""Recorded runs as tables for the notebooks' pages, one function a table.

Knows rows, and nothing of how they were made. Start reading at `layout`.
"""
