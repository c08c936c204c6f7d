"""From a folder to what the network sees: listing, decoding, the two resizes."""
