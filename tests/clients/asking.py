"""One site's ClientApp, asked with Flower messages, and the same behind its door."""

from functools import partial

from flwr.app import Context, Message, RecordDict
from flwr.common.serde import message_to_proto

from clients.app import build_app
from clients.door import answer_at_the_door
from clients.workbench import Workbench
from federation.flower import stamp, take_simulated_identity
from federation.messages import Instruction, Reply
from federation.models.build import build_model
from federation.vocabulary import agreed_vocabulary

NODE = 100


class Asked:
    """One site's ClientApp: ``ask`` gives the decoded reply, ``sent`` all bytes that left."""

    def __init__(self, folder, workbench=None):
        take_simulated_identity()
        self.app = build_app(workbench or Workbench())
        self.context = Context(1, NODE, {"site": str(folder)}, RecordDict(), {})
        self.sent = b""

    def ask(self, kind, instruction):
        return self.ask_records(kind, instruction.to_records())

    def ask_records(self, kind, records):
        message = Message(records, dst_node_id=NODE, message_type=kind)
        stamp(message, "message-1")
        reply = self.app(message, self.context)
        assert not reply.has_error()
        self.sent += message_to_proto(reply).SerializeToString()
        return Reply.from_records(reply.content, kind)


class AtTheDoor(Asked):
    """A deployed site: what its door refuses never reaches the ClientApp."""

    def __init__(self, folder, **more):
        super().__init__(folder)
        self.app = partial(answer_at_the_door, app=self.app, **more)


def instruction_for(study, round_=1, **more):
    """An instruction of a run, with the study's first weights."""
    vocabulary = agreed_vocabulary(study.modalities.ehr)
    weights = build_model(study, vocabulary).weights()
    known = {"run": "ab12", "round": round_, "weights": weights, "vocabulary": vocabulary} | more
    return Instruction(study, **known)
