"""Methods against forgetting: how the chosen tensors are trained, one file each, behind one protocol.

This version trains them plainly, so that Plans are compared with nothing else changed.
"""
