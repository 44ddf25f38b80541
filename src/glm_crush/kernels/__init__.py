"""The only door to native code: the program, its native executor and its NumPy twin."""
