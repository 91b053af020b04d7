"""The model card: what a clinic or a regulator asks of a model, filled from the run.

See also:
    ``answers``: what the run itself answers; ``questions``: what is asked, by the Coalition for
    Health AI and by TRIPOD+AI; ``change``: what changed since a predecessor; ``document``: the
    card as JSON and as Markdown.
"""

from server.report.card.document import write_card

__all__ = ["write_card"]
