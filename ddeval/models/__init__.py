"""Models: which network is this checkpoint, and how is it built, read and written?"""
