"""Measuring: metrics, intervals, clocks, the result row, its folder, and the check of what is stored there."""
