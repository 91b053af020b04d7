"""How many copies of a model its journey takes in memory, at the end that sends and that receives.

A process of its own for each figure runs what runs at a site or the coordinator: our encoding,
Flower's objects and chunks, our decoding. In place of the network stands a folder. Copies are the
peak of resident memory less what there was before the vector, in sizes of the float32 vector; the
vector itself is one of them.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from reporting import Row

from federation.compression import CompressionSection, rounded

MOST_COPIES = 3.0
KINDS = ("float32", "bf16", "int8", "top_k")
LOADED = 0.15
"""Of a copy: chunks under way and what the allocator holds back, at this size."""


def rows(quick: bool) -> list[Row]:
    """Measure each end for updates and for the weights that go down."""
    parameters = 10_000_000 if quick else 100_000_000
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for what in ("weights", *KINDS):
            for end in ("send", "receive"):
                copies = _measured(what, end, parameters, Path(folder) / what)
                name = f"bandwidth/memory/{what}/{end}/copies"
                holds = None if quick else copies <= MOST_COPIES + LOADED
                note = f"{parameters // 10**6} million parameters"
                found.append(Row(name, round(copies, 2), MOST_COPIES, LOADED, holds, note))
    return found


def _measured(what: str, end: str, parameters: int, folder: Path) -> float:
    command = [sys.executable, __file__, what, end, str(parameters), str(folder)]
    told = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(told.stdout.split()[-1])


def _compression(kind: str) -> CompressionSection | None:
    if kind in ("float32", "weights"):
        return None
    options = {"kind": kind, "fraction": 0.01 if kind == "top_k" else None}
    return CompressionSection.model_validate(options)


def _send(what: str, parameters: int, folder: Path) -> Callable[[], None]:
    from flwr.app import Message, RecordDict
    from flwr.supercore.inflatable.inflatable_object import (
        get_all_nested_objects,
        get_object_tree,
        no_object_id_recompute,
    )
    from flwr.supercore.inflatable.inflatable_utils import push_objects

    from federation.bodies import TrainBody
    from federation.flower import bound_messages, take_simulated_identity
    from federation.messages import Instruction, Reply
    from federation.study import Study

    take_simulated_identity()
    bound_messages()
    folder.mkdir(exist_ok=True)
    study = Study.model_validate(
        {"study": {"name": "large"}, "task": {"label": "x"}, "modalities": {"text": {}}}
    )
    body = TrainBody(loss=0.5, steps=1, patients={"text": 100, "fusion": 100})

    def write(object_id: str, content: bytes) -> None:
        (folder / object_id).write_bytes(content)

    def records(vector: np.ndarray) -> RecordDict:
        if what == "weights":
            return Instruction(study, weights=vector, run="ab").to_records()
        return Reply("ok", body, update=vector, compression=_compression(what)).to_records()

    def run() -> None:
        rng = np.random.default_rng(1)
        vector = np.empty(parameters, np.float32)
        for start in range(0, parameters, 2**20):
            count = min(2**20, parameters - start)
            vector[start : start + count] = rng.normal(0, 0.01, count)
        compression = _compression(what)
        if compression is not None:
            vector = rounded(vector, compression)
        _reset_peak()
        message = Message(records(vector), dst_node_id=1, message_type="train")
        with no_object_id_recompute():
            tree = get_object_tree(message)
            objects = get_all_nested_objects(message)
            del message
            push_objects(objects, write)
        (folder / "tree").write_bytes(tree.SerializeToString())

    return run


def _receive(what: str, parameters: int, folder: Path) -> Callable[[], None]:
    from flwr.app import Message
    from flwr.proto.message_pb2 import ObjectTree
    from flwr.supercore.inflatable.inflatable_utils import pull_and_inflate_object_from_tree

    from federation.flower import bound_messages, take_simulated_identity
    from federation.messages import TRAIN, Instruction, Reply

    take_simulated_identity()
    bound_messages()
    tree = ObjectTree.FromString((folder / "tree").read_bytes())

    def run() -> None:
        message = pull_and_inflate_object_from_tree(
            tree,
            lambda object_id: (folder / object_id).read_bytes(),
            lambda object_id: None,
            return_type=Message,
        )
        content = message.content
        del message
        if what == "weights":
            vector = Instruction.from_records(content).weights
        else:
            vector = Reply.from_records(content, TRAIN).update
        assert vector is not None and len(vector) == parameters

    return run


def _reset_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def _resident(name: str) -> int:
    """Bytes of VmHWM (the peak) or VmRSS."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return 1024 * int(line.split()[1])
    raise OSError(f"/proc/self/status has no {name}")


def main() -> None:
    """Measure one end in this process and print the copies."""
    what, end, parameters, folder = sys.argv[1:]
    make = {"send": _send, "receive": _receive}[end]
    run = make(what, int(parameters), Path(folder))
    before = _resident("VmRSS")
    _reset_peak()
    run()
    print((_resident("VmHWM") - before) / (4 * int(parameters)))


if __name__ == "__main__":
    main()
