"""Small programs that stand where trainer, zygote and server stand."""
