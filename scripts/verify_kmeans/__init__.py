"""Two vocabularies compared: ours and the paper's, or any two."""
