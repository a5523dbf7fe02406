"""
Which layer a weight belongs to, by the name that our modules and torch's give it.

All tables by layer ask here, so that they can be laid side by side: by the site's name alone, since
not all of them see the record of a weight.
"""

from __future__ import annotations

import re

_RECURRENT = re.compile(r"(?:weight|bias)_(?:ih|hh)_l(\d+)(_reverse)?")


def layer_of(name: str) -> str:
    """
    Return the layer of a site: a recurrent layer's direction, a module, or the site itself.

    >>> layer_of("rnn.weight_hh_l1_reverse"), layer_of("head.bias"), layer_of("weight_ih_l0")
    ('rnn.l1_reverse', 'head', 'l0')
    >>> layer_of("w"), layer_of("head.log_scale"), layer_of("weight")
    ('w', 'head.log_scale', 'weight')
    """
    module, _, last = name.rpartition(".")
    if found := _RECURRENT.fullmatch(last):
        layer = f"l{found[1]}{found[2] or ''}"
        return f"{module}.{layer}" if module else layer
    return module if module and last in ("weight", "bias") else name
