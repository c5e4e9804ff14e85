"""How records lie in Redis: one string per id, which expires by itself."""

import msgspec

from asyncq.message import Record

encode_record = msgspec.msgpack.Encoder().encode
decode_record = msgspec.msgpack.Decoder(Record).decode
decode_pushed = msgspec.msgpack.Decoder(list[Record]).decode
