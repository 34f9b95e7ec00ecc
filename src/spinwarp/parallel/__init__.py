"""Processes of one job on one machine: which of them this is, and how they are started, watched and ended."""
