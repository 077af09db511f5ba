"""Takes Prometheus remote write 2.0 over HTTP and says each sample as a line of JSON with its "name". Messages are read by the
official protobuf package, by the definition of io/prometheus/write/v2/types.proto as far as it is sent.
"""

import http.server
import json
import sys

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

FIELD = descriptor_pb2.FieldDescriptorProto
PACKAGE = "io.prometheus.write.v2"
MESSAGES = {
    "Request": [("symbols", 4, "STRING", True), ("timeseries", 5, "TimeSeries", True)],
    "TimeSeries": [("labels_refs", 1, "UINT32", True), ("samples", 2, "Sample", True), ("metadata", 5, "Metadata", False)],
    "Sample": [("value", 1, "DOUBLE", False), ("timestamp", 2, "INT64", False)],
    "Metadata": [("type", 1, "INT32", False), ("help_ref", 3, "UINT32", False), ("unit_ref", 4, "UINT32", False)],
}
TYPES = ["", "counter", "gauge", "histogram"]


def request_type():
    file = descriptor_pb2.FileDescriptorProto(name="types.proto", package=PACKAGE, syntax="proto3")
    for name, fields in MESSAGES.items():
        message = file.message_type.add(name=name)
        for field, number, kind, repeated in fields:
            of = dict(type_name=f".{PACKAGE}.{kind}", type=FIELD.TYPE_MESSAGE) if kind in MESSAGES else dict(
                type=getattr(FIELD, f"TYPE_{kind}"))
            label = FIELD.LABEL_REPEATED if repeated else FIELD.LABEL_OPTIONAL
            message.field.add(name=field, number=number, label=label, **of)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{PACKAGE}.Request"))


Request = request_type()


def varint(data, at):
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at


def unsnapped(data):
    """github.com/google/snappy/blob/main/format_description.txt"""
    length, at = varint(data, 0)
    out = bytearray()
    while at < len(data):
        tag, at = data[at], at + 1
        kind, upper = tag & 3, tag >> 2
        if kind == 0:
            size = upper + 1
            if upper >= 60:
                extra = upper - 59
                size, at = int.from_bytes(data[at:at + extra], "little") + 1, at + extra
            out += data[at:at + size]
            at += size
            continue
        if kind == 1:
            size, offset, at = (upper & 7) + 4, (upper >> 3) << 8 | data[at], at + 1
        else:
            width = 2 if kind == 2 else 4
            size, offset, at = upper + 1, int.from_bytes(data[at:at + width], "little"), at + width
        for _ in range(size):
            out.append(out[-offset])
    assert len(out) == length
    return bytes(out)


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        assert self.headers["content-type"] == "application/x-protobuf;proto=io.prometheus.write.v2.Request", self.headers
        assert self.headers["content-encoding"] == "snappy", self.headers
        assert self.headers["x-prometheus-remote-write-version"] == "2.0.0", self.headers
        request = Request.FromString(unsnapped(body))
        assert request.symbols[0] == ""
        written = 0
        for series in request.timeseries:
            texts = [request.symbols[ref] for ref in series.labels_refs]
            names = texts[::2]
            assert names == sorted(set(names)), names
            labels = dict(zip(names, texts[1::2]))
            assert series.metadata.help_ref and series.metadata.type, labels
            for sample in series.samples:
                written += 1
                line = dict(name=labels["__name__"], labels=labels, value=sample.value, time=sample.timestamp,
                            type=TYPES[series.metadata.type], help=request.symbols[series.metadata.help_ref])
                sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()
        self.send_response(204)
        self.send_header("x-prometheus-remote-write-samples-written", str(written))
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
print(f"listening {server.server_address[1]}", flush=True)
server.serve_forever()
