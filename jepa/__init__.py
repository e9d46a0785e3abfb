"""A self-supervised representation toolkit centred on joint-embedding prediction.

`jepa.encoder`, `jepa.predictor`, `jepa.masks`, ... are the representation itself; `jepa.datasets`,
`jepa.probes`, `jepa.planning` and `jepa.recipes` are the rooms around it. In a checkout those four
are folders beside this one, so the checkout joins this package's search path.
"""

from pathlib import Path

__version__ = "0.1.0"

_checkout = Path(__file__).resolve().parent.parent
if (_checkout / "setup.cfg").is_file():
    __path__.append(str(_checkout))
del Path, _checkout
