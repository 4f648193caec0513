"""Where a system comes from: the paper behind a layer or a recipe, and its BibTeX."""

from dataclasses import dataclass

from torch import nn


@dataclass(frozen=True)
class Paper:
    """A published work. `slug` is the name by which the system is verified and cited."""

    slug: str
    title: str
    authors: str
    year: int
    arxiv: str = ""

    def bibtex(self) -> str:
        """The BibTeX entry."""
        lines = [f"  title = {{{self.title}}}", f"  author = {{{self.authors}}}", f"  year = {{{self.year}}}"]
        if self.arxiv:
            lines += [f"  eprint = {{{self.arxiv}}}", "  archivePrefix = {arXiv}"]
        return f"@misc{{{self.slug},\n" + ",\n".join(lines) + "\n}"


def cite(model: nn.Module) -> str:
    """The BibTeX of every recurrent layer that `model` is made of."""
    papers = [paper for m in model.modules() if isinstance(paper := getattr(m, "PAPER", None), Paper)]
    return "\n\n".join(paper.bibtex() for paper in dict.fromkeys(papers))
