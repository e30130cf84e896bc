"""ddeval: how good is this checkpoint, which labels are wrong, and what is left of the number then?"""

__version__ = "0.1.0"
