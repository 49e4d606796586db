"""Pictures for people, one module for each kind of result.  Arrays in, pixels out; nothing here knows jobs or files.

A picture is uint8 (rows, columns, RGB).
"""
