"""Figures of result rows: pure functions from a frame to given axes; they keep no state."""
