"""What every benchmark takes and says: its options, its parts' results, and the document that is written of them."""
