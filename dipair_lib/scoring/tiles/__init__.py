"""All pairs of two blocks of texts at once: compiled code on a CPU, a kernel on a GPU, torch elsewhere."""
