"""Units that are often confused, by the factor between them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Mistake:
    """A change of unit.

    Attributes:
        what: from which unit to which, and of what.
        undo: turns values in the wrong unit into right ones.
        factor: the ratio between the two; None where it is more than a ratio.
        words: parts of a code that name the analyte, in lower case; empty for any.
    """

    what: str
    undo: Callable[[Values], Values]
    factor: float | None
    words: tuple[str, ...] = ()


def _ratio(what: str, factor: float, *words: str) -> tuple[Mistake, Mistake]:
    """A ratio and its reverse: the factor turns the first unit's figure into the second's."""
    analyte, _, units = what.rpartition(": ")
    first, _, second = units.partition(" for ")
    prefix = f"{analyte}: " if analyte else ""
    return (
        Mistake(f"{prefix}{first} for {second}", lambda v: v * factor, factor, words),
        Mistake(f"{prefix}{second} for {first}", lambda v: v / factor, 1 / factor, words),
    )


MISTAKES: tuple[Mistake, ...] = (
    *_ratio("glucose: mmol/L for mg/dL", 18.02, "gluc"),
    *_ratio("creatinine: mg/dL for µmol/L", 88.4, "crea"),
    *_ratio("bilirubin: mg/dL for µmol/L", 17.1, "bili"),
    *_ratio("urea: mmol/L of urea for mg/dL of urea nitrogen", 2.801, "urea", "bun"),
    *_ratio("cholesterol: mmol/L for mg/dL", 38.67, "chol", "ldl", "hdl"),
    *_ratio("triglycerides: mmol/L for mg/dL", 88.57, "trig"),
    *_ratio("calcium: mmol/L for mg/dL", 4.008, "calc"),
    *_ratio("lactate: mmol/L for mg/dL", 9.01, "lact"),
    *_ratio("uric acid: mg/dL for µmol/L", 59.48, "uric", "urate"),
    *_ratio("haemoglobin: mmol/L for g/dL", 1.611, "hemoglobin", "haemoglobin", "hgb", "//hb"),
    *_ratio("pressure: kPa for mmHg", 7.501, "pressure", "bp", "pco2", "po2", "pao2", "paco2"),
    *_ratio("weight: kg for lb", 2.205, "weight"),
    *_ratio("length: in for cm", 2.54, "height", "length"),
    Mistake("temperature: °F for °C", lambda v: (v - 32) / 1.8, None, ("temp",)),
    Mistake("temperature: °C for °F", lambda v: v * 1.8 + 32, None, ("temp",)),
    *_ratio("a tenth (as g/L for g/dL)", 0.1),
    *_ratio("a hundredth (as percent for a share)", 0.01),
    *_ratio("a thousandth (as µg for mg)", 0.001),
)


def fitting(code: str) -> list[Mistake]:
    """Return the mistakes to think of for a code: its analyte's, then those of any analyte.

    A code that names no analyte known here, such as a number, may be any of them.

    >>> [m.what for m in fitting("LAB//GLUCOSE")][:2]
    ['glucose: mmol/L for mg/dL', 'glucose: mg/dL for mmol/L']
    """
    of_it = of_analyte(code)
    of_any = [m for m in MISTAKES if not m.words]
    return [*of_it, *of_any] if of_it or any(x.isalpha() for x in code[-4:]) else list(MISTAKES)


def of_analyte(code: str) -> list[Mistake]:
    """Return the mistakes of the analyte that a code names."""
    return [m for m in MISTAKES if any(word in code.lower() for word in m.words)]
