"""Reading `tf.train.Example`, the message that records of TensorFlow's formats hold, without TensorFlow."""

from __future__ import annotations

import functools
from typing import Any

from jaxcam.errors import JaxcamError


def parse_example(data: bytes) -> dict[str, list]:
    """The lists of a `tf.train.Example` by name.

    Raises:
      JaxcamError: the bytes are none.
    """
    from google.protobuf.message import DecodeError

    try:
        example = _example().FromString(data)
    except DecodeError:
        raise JaxcamError("a record is no tf.train.Example") from None
    found = {}
    for entry in example.features.feature:
        kind = next(iter(entry.value.ListFields()), None)
        found[entry.key] = list(kind[1].value) if kind else []
    return found


@functools.cache
def _example() -> Any:
    """The message `tf.train.Example`, as its declaration has it; in a pool of its own, beside TensorFlow's."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    told = descriptor_pb2.FieldDescriptorProto
    fields = {
        "Bytes": {"value": (told.TYPE_BYTES, True)},
        "Floats": {"value": (told.TYPE_FLOAT, True)},
        "Integers": {"value": (told.TYPE_INT64, True)},
        "Feature": {"bytes": ("Bytes", False), "floats": ("Floats", False), "integers": ("Integers", False)},
        "Entry": {"key": (told.TYPE_STRING, False), "value": ("Feature", False)},
        "Features": {"feature": ("Entry", True)},
        "Example": {"features": ("Features", False)},
    }
    file = descriptor_pb2.FileDescriptorProto(name="example.proto", package="t", syntax="proto3")
    for name, own in fields.items():
        message = file.message_type.add(name=name)
        for number, (field, (kind, many)) in enumerate(own.items(), 1):
            label = told.LABEL_REPEATED if many else told.LABEL_OPTIONAL
            added = message.field.add(name=field, number=number, label=label)
            if isinstance(kind, str):
                added.type, added.type_name = told.TYPE_MESSAGE, f".t.{kind}"
            else:
                added.type = kind
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("t.Example"))
