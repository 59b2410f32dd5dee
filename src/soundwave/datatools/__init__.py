"""What is done to training data before training: checked, counted, converted, shown, filtered, and made.

Stands on the manifest reading of `soundwave.data`. `soundwave data` is its command line.
"""
