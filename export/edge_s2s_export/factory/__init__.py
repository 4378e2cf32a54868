"""The model factory: data or a teacher in, a checked int8 bundle out."""
