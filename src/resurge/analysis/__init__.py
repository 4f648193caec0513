"""Looking into trained models: spectra, memory, and the report that draws them. matplotlib is imported when used."""

from resurge.analysis.report import report
from resurge.analysis.spectra import eigenvalues, time_scales

__all__ = ["eigenvalues", "report", "time_scales"]
