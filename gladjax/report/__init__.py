"""One self-contained HTML page per fit or evaluation.

`charts` draws curves and bars as SVG, `page` puts words, numbers and pictures together,
`content` chooses what a fit and an evaluation show. A page needs no network: pictures
are inside of it, scripts there are none.
"""

from gladjax.report.content import Case as Case
from gladjax.report.content import evaluation as evaluation
from gladjax.report.content import fitted as fitted
from gladjax.report.page import write as write

__all__ = ["Case", "evaluation", "fitted", "write"]
