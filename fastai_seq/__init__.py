__version__ = "0.1.0"

from . import moved     # so that files of version 0.1.0 can be opened
