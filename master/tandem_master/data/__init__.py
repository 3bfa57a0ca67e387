"""Problems and the policy's tokenizer."""
