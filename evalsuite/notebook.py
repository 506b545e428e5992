"""Runs in notebooks: their verdicts as HTML, and the figures of the report as charts that can be changed."""

from __future__ import annotations

from functools import cached_property
from html import escape
from typing import TYPE_CHECKING, Any

from evalsuite.errors import StoreError, UserError
from evalsuite.registry import unknown_name
from evalsuite.report.build import report_data
from evalsuite.report.check_cards import check_answer
from evalsuite.report.curve_lines import curve_lines
from evalsuite.report.palette import PAPER
from evalsuite.report.panels import panels
from evalsuite.report.plot import Pen
from evalsuite.report.standalone_charts import curve_spec, panels_spec, verdict_spec
from evalsuite.report.verdict_cards import Verdicts
from evalsuite.report.verdict_picture import VerdictPicture
from evalsuite.results import run as results

if TYPE_CHECKING:
    import altair as alt

    from evalsuite.report.charts import Spec
    from evalsuite.report.data import ReportData

_WIDTH = 900.0
"""Width of the picture of the verdicts, in pixels."""


class Plots:
    """The figures of a run as Altair charts; ``run.plot`` is one.

    A chart is a Vega-Lite specification with its numbers: change it with Altair's methods (``.properties(width=600)``),
    or write it to a file (``.save("figure.html")``). Altair is in the extra ``notebook``.

    Args:
        data: The data of the report.
    """

    def __init__(self, data: ReportData) -> None:
        self._data = data

    def verdict(self) -> alt.FacetChart:
        """Returns up to which prune ratio each group of checks is shown to hold, and from which to fail, per method.

        Raises:
            UserError: If Altair is not installed, or nothing with a tolerance was measured.
        """
        verdicts = [verdict for verdict in Verdicts(self._data).methods() if verdict.bars]
        if not verdicts:
            raise UserError(
                "this run has no verdicts: nothing with a tolerance was measured at a ratio above 0"
            )
        chart: alt.FacetChart = _chart(verdict_spec(verdicts))
        return chart

    def curves(self, metric: str = "accuracy", condition: str = "clean") -> alt.LayerChart:
        """Returns one metric on one condition over the prune ratio.

        Args:
            metric: Name of the metric, as in ``measurements.csv``.
            condition: Name of the condition, for example ``fog/3``.

        Raises:
            UserError: If Altair is not installed, or the metric was not measured on the condition.
        """
        curves = [curve for curve in curve_lines(self._data, metrics=[metric]) if curve.lines]
        if not curves:
            every = set(self._data.measurements["metric"].dropna())
            raise UserError(unknown_name("metric of this run", metric, sorted(map(str, every))))
        chosen = [curve for curve in curves if curve.condition == condition]
        if not chosen:
            names = [curve.condition for curve in curves]
            raise UserError(unknown_name(f"condition of {metric} in this run", condition, names))
        chart: alt.LayerChart = _chart(curve_spec(chosen[0], self._data.methods, self._data.ratio_label))
        return chart

    def families(self) -> alt.ConcatChart:
        """Returns a panel for each kind of test: clean, corruptions by family, attacks, OOD, calibration, similarity.

        Raises:
            UserError: If Altair is not installed, or nothing was measured at a ratio above 0.
        """
        shown = panels([curve for curve in curve_lines(self._data) if curve.lines])
        if not shown:
            raise UserError("this run has no curves: nothing was measured at a ratio above 0")
        chart: alt.ConcatChart = _chart(panels_spec(shown, self._data.methods, self._data.ratio_label))
        return chart


class Run(results.Run):
    """The results of a run, as far as it has come; in a notebook it shows its verdicts.

    Args:
        path: The run folder.
        tolerances: Metric to tolerance instead of the suite's; conclusions, bounds included, are drawn anew.
        axis: What ratios are counted in, one of `evalsuite.cost_axes.AXES`: a candidate's is then
            ``1 - cost(candidate) / cost(parent)``. By default in what each method saves,
            which for nearly all is non-zero parameters.
        record: Content of ``run.json``, where it is not that of the folder.

    Raises:
        StoreError: If it is none.
        UnknownNameError: If there is no such axis.
    """

    @cached_property
    def plot(self) -> Plots:
        """The figures of the report as charts that can be changed: ``verdict()``, ``curves(...)``, ``families()``."""
        return Plots(self._report_data)

    @cached_property
    def _report_data(self) -> ReportData:
        return report_data(self)

    def _repr_html_(self) -> str:
        """The verdicts in words and as a picture, as notebooks show a run."""
        title = f"<h3>{escape(str(self.record['suite']['name']))}</h3>"
        try:
            data = self._report_data
        except StoreError as error:
            return f"{title}<p>{escape(str(error))}</p>"
        return title + (_verdicts_html(data) if data.checked.empty else _check_html(data))


def _verdicts_html(data: ReportData) -> str:
    """The verdict on each method, and the picture of all of them."""
    verdicts = Verdicts(data)
    methods = verdicts.methods()
    if not methods:
        return "<p>No tolerance was set, so no verdict can be stated; see <code>measurements</code>.</p>"
    words = "".join(verdict._repr_html_() for verdict in methods)
    about = f"<p><small>{escape(verdicts.scope())} {escape(verdicts.control())}</small></p>"
    picture = VerdictPicture(methods, data.methods, _WIDTH, Pen(PAPER))
    drawn = picture.svg(style=f"max-width:{_WIDTH:g}px") if picture.verdicts else ""
    return f"{words}{about}{drawn}"


def _check_html(data: ReportData) -> str:
    """The verdict on each finished model."""
    answer = check_answer(data)
    cards = () if answer is None else answer.cards
    return "".join(card.verdict._repr_html_() for card in cards)


def _chart(spec: Spec) -> Any:
    """A specification as a chart of Altair."""
    try:
        import altair as alt
    except ImportError as error:
        raise UserError(
            "run.plot needs altair, which is not installed; install it with: pip install 'evalsuite[notebook]'"
        ) from error
    return alt.Chart.from_dict(spec)
