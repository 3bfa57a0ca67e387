"""A policy's Hugging Face folder: any rank of any layout reads its own boxes out of it, and writes its own into it."""
