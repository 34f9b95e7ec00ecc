"""Formulas as MathML, which browsers draw by themselves: no script, no font."""

import re

from docutils import nodes
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.writers.html5 import HTML5Translator

log = logging.getLogger(__name__)
_BELOW = re.compile(
    r"<munderover>(<m[in]>[^<]*</m[in]>)(<m[in]>[^<]*</m[in]>|<mrow>.*?</mrow>)"
    r'(<mo stretchy="false">[ˆˉ~]</mo>)</munderover>'
)


def mathml(tex: str, as_block: bool = False) -> str:
    r"""Return a formula as MathML.

    Parentheses grow by themselves, so ``\big`` and its like are dropped. Docutils takes ``\frac12`` for a fraction of
    12, so arguments of one digit get braces, and shows the space in ``\operatorname{arg\,min}`` as it is written. Bars
    that carry an exponent must not grow, or they leave the line. An index of a letter with an accent would go below it.

    Raises
    ------
    MathError : if the formula has a command that docutils does not know.
    """
    tex = re.sub(r"\\[bB]ig+[lrm]?(?![a-zA-Z])", "", tex)
    tex = re.sub(r"\\([td]?frac)\s*(\d)\s*(\d)", r"\\\1{\2}{\3}", tex)
    tex = re.sub(r"\\operatorname\{[^}]*\}", lambda name: name[0].replace(r"\,", " "), tex)
    made = re.sub(r">\s+<", "><", tex2mathml(tex, as_block=as_block))
    made = _BELOW.sub(r'<msub><mover accent="true">\1\3</mover>\2</msub>', made)
    return re.sub(r"<mo>([|‖])</mo>", r'<mo stretchy="false">\1</mo>', made)


def _write(writer: HTML5Translator, node: nodes.Element, as_block: bool) -> None:
    try:
        formula = mathml(node.astext(), as_block)
    except MathError as error:
        log.warning("formula not understood: %s", error, location=node)
        formula = f"<code>{writer.encode(node.astext())}</code>"
    writer.body.append(f'<div class="math">{formula}</div>\n' if as_block else formula)
    raise nodes.SkipNode


def inline(writer: HTML5Translator, node: nodes.math) -> None:
    """Write a formula within a sentence."""
    _write(writer, node, as_block=False)


def block(writer: HTML5Translator, node: nodes.math_block) -> None:
    """Write a formula on a line of its own."""
    _write(writer, node, as_block=True)


def setup(app: Sphinx) -> dict[str, bool]:
    """Tell Sphinx of it."""
    app.add_html_math_renderer("mathml", (inline, None), (block, None))
    app.config.html_math_renderer = "mathml"  # type: ignore[attr-defined]
    return {"parallel_read_safe": True}
