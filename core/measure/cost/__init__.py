"""Counts by arithmetic, latency by measurement, prediction by table."""
