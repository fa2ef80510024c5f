"""Tables as views of the benchmark: published values beside measured ones, missing shown as missing.

``seeds.py`` turns the rows of one configuration into one number with its interval, ``sheet.py`` holds what is common
to all printed tables, ``table_3.py`` and ``categories.py`` (Tables 1, 2 and 4, and any other dataset with masks) say
which number stands where.
"""
