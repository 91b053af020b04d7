"""What a site sends of an update that is compressed, and what it keeps for the next round."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from clients.memory import Memory
from federation.compression import CompressionSection, rounded
from federation.models.build import Vector

UNSENT = "unsent"


def as_it_travels(
    update: Vector,
    moved: NDArray[np.bool_],
    compression: CompressionSection | None,
    memory: Memory,
    round_: int,
) -> Vector:
    """Round an update to what can travel; where that is coarse, with what earlier ones left.

    Under differential privacy the update is noised already, and what is kept of it too: nothing
    here looks at the data again.

    Args:
        update: (size,) float32, local minus global; zero where it has not ``moved``. It is used up.
        moved: (size,) whether the site moves this part of the model for the others.
        compression: the study's; None leaves the update as it is.
        memory: of what was left unsent, of this model alone.
        round_: from 1.

    Returns:
        (size,) float32, zero where it has not moved.

    Raises:
        UserError: if what was kept is damaged.

    Source: error feedback, Seide et al., Interspeech 2014; Karimireddy et al., ICML 2019.
    """
    if compression is None:
        return update
    if not compression.feeds_back:
        return rounded(update, compression)
    kept = memory.before(round_).get(UNSENT)
    if kept is None or len(kept) != len(update):
        kept = np.zeros_like(update)
    # In place, as an update may be large: what was kept becomes what is kept.
    wanted = np.add(update, kept, out=update, where=moved)
    sent = rounded(wanted, compression)
    memory.keep(round_, {UNSENT: np.subtract(wanted, sent, out=kept, where=moved)})
    return sent
