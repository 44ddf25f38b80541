"""The command `glm`: one file per verb, all over the same library that programs import.

Above: the user. Below: everything. Modules here import heavy parts inside the functions that need them,
so that `glm --help` answers at once.
"""
