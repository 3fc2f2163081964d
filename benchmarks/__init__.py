"""Measurements that anyone can repeat: one file per question."""
