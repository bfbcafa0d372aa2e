"""What a report derives from the stored results: checks, comparisons with papers, significance, costs."""
