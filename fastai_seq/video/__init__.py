"The wing `video`; names that version 0.1.0 had in the module `video` are found in its rooms"
from functools import partial
from fastai_seq.moved import find_moved

__getattr__ = partial(find_moved, __name__)
