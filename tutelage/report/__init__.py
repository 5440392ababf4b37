"""One self-contained HTML page that says what a run did. Reads what the stages published; computes no figure anew."""
