"""From result rows to a decision: derived columns, the choice under limits, sentences, figures, report,
explorer, export.
"""
