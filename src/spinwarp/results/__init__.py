"""The files of a result folder, written by evaluation and read by the figures, and the table of results.

``results.csv`` holds one line per volume, ``examples.h5`` a few slices with their targets, ``calibration.json`` how
well the predicted standard deviations agree with the errors, and ``reconstructions/`` one ``<volume>.h5`` each in
fastMRI's submission layout. ``targets/`` holds their targets if a report was asked for. Every file is written whole or
not at all.
"""

from spinwarp.results.calibration import (
    CALIBRATION,
    CalibrationCurves,
    VolumeCurves,
    read_calibration,
    write_calibration,
)
from spinwarp.results.images import (
    EXAMPLES,
    RECONSTRUCTIONS,
    TARGETS,
    ExampleSlice,
    ReconstructedVolume,
    read_examples,
    read_origin,
    read_reconstruction,
    read_slices,
    read_target,
    write_examples,
    write_reconstruction,
    write_target,
)
from spinwarp.results.rows import RESULTS, Row, read_rows, write_rows
from spinwarp.results.table import By, Estimate, Group, Summary, group_of, markdown_table, split_of, summarise, table
from spinwarp.results.trace import TRACE, TraceRow, read_trace, write_trace

__all__ = [
    "CALIBRATION",
    "EXAMPLES",
    "RECONSTRUCTIONS",
    "RESULTS",
    "TARGETS",
    "TRACE",
    "By",
    "CalibrationCurves",
    "Estimate",
    "ExampleSlice",
    "Group",
    "ReconstructedVolume",
    "Row",
    "Summary",
    "TraceRow",
    "VolumeCurves",
    "group_of",
    "markdown_table",
    "read_calibration",
    "read_examples",
    "read_origin",
    "read_reconstruction",
    "read_rows",
    "read_slices",
    "read_target",
    "read_trace",
    "split_of",
    "summarise",
    "table",
    "write_calibration",
    "write_examples",
    "write_reconstruction",
    "write_rows",
    "write_target",
    "write_trace",
]
