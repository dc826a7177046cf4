"""WHO may, WHEN and WHERE TO. Pure: time is an argument."""
