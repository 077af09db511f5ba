"""Takes OTLP over HTTP, read by OpenTelemetry's own package: says each data point of /v1/metrics as a line of JSON with its
"name", each record of /v1/logs as one with its "event".

otlp.py [--tls CERTIFICATE KEY CLIENTS_AUTHORITY] [--token TOKEN] [--first-answers STATUS,…] [--port PORT] [--only NAME,…]

With --tls only clients with a certificate are let in; with --token only those that bear it. The first requests get these
answers, and are not said. With --only nothing but data points of these names is said, and of each request the number of all that
it holds, as its "request".
"""

import argparse
import gzip
import http.server
import json
import ssl
import sys

from opentelemetry.proto.collector.logs.v1 import logs_service_pb2 as logs
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2 as service

parser = argparse.ArgumentParser()
parser.add_argument("--tls", nargs=3)
parser.add_argument("--token")
parser.add_argument("--first-answers", default="")
parser.add_argument("--port", type=int, default=0)
parser.add_argument("--only", default="")
options = parser.parse_args()
only = set(filter(None, options.only.split(",")))
answers = [int(status) for status in options.first_answers.split(",") if status]


def attributes(pairs):
    return {pair.key: value(pair.value) for pair in pairs}


def value(any_value):
    kind = any_value.WhichOneof("value")
    assert kind, "an attribute without a value"
    if kind == "array_value":
        return [value(one) for one in any_value.array_value.values]
    if kind == "kvlist_value":
        return attributes(any_value.kvlist_value.values)
    return getattr(any_value, kind)


def say(**line):
    sys.stdout.write(json.dumps(line) + "\n")


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        status = answers.pop(0) if answers else 200
        if options.token and self.headers["authorization"] != f"Bearer {options.token}":
            status = 401
        if status == 200:
            self.tell(body)
        self.send_response(status)
        self.send_header("content-length", "0")
        self.end_headers()

    def tell(self, body):
        assert self.headers["content-type"] == "application/x-protobuf", self.headers
        assert self.headers["content-encoding"] == "gzip", self.headers
        if self.path == "/v1/logs":
            return self.tell_logs(logs.ExportLogsServiceRequest.FromString(gzip.decompress(body)))
        request = service.ExportMetricsServiceRequest.FromString(gzip.decompress(body))
        count = 0
        for resource in request.resource_metrics:
            of = attributes(resource.resource.attributes)
            for scope in resource.scope_metrics:
                assert scope.scope.name == "steth"
                for metric in scope.metrics:
                    kind = metric.WhichOneof("data")
                    data = getattr(metric, kind)
                    count += len(data.data_points)
                    if only and metric.name not in only:
                        continue
                    for point in data.data_points:
                        told = dict(name=metric.name, unit=metric.unit, kind=kind, resource=of,
                                    attributes=attributes(point.attributes), time=point.time_unix_nano)
                        if kind == "histogram":
                            assert len(point.bucket_counts) == len(point.explicit_bounds) + 1 or point.flags
                            assert sum(point.bucket_counts) == point.count
                            say(**told, value=point.sum, count=point.count)
                        else:
                            say(**told, value=point.as_double if point.HasField("as_double") else None)
        if only:
            say(request=count)
        sys.stdout.flush()

    def tell_logs(self, request):
        for resource in request.resource_logs:
            of = attributes(resource.resource.attributes)
            for scope in resource.scope_logs:
                assert scope.scope.name == "steth"
                for record in scope.log_records:
                    say(event=record.event_name, severity=record.severity_text, number=record.severity_number,
                        body=value(record.body), resource=of, attributes=attributes(record.attributes),
                        time=record.time_unix_nano, observed=record.observed_time_unix_nano)
        sys.stdout.flush()

    def log_message(self, *_):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", options.port), Handler)
if options.tls:
    certificate, key, authority = options.tls
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    context.load_verify_locations(authority)
    context.verify_mode = ssl.CERT_REQUIRED
    server.socket = context.wrap_socket(server.socket, server_side=True)
print(f"listening {server.server_address[1]}", flush=True)
server.serve_forever()
