"""What only the notebooks 06 and 07 use: rates at scale, other libraries on the same pairs, the papers'
architectures.
"""
