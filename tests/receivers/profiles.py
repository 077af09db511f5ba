"""Takes profiles over HTTP as Pyroscope (/ingest) and Parca (/profiles/writeraw) do, puts the pprof of each into a file of the
folder that is its argument, and says each as a line of JSON.
"""

import base64
import email.parser
import http.server
import itertools
import json
import os
import sys
import urllib.parse

folder = sys.argv[1]
numbers = itertools.count()


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        address = urllib.parse.urlsplit(self.path)
        if address.path == "/ingest":
            self.pyroscope(dict(urllib.parse.parse_qsl(address.query, strict_parsing=True)), body)
        elif address.path == "/profiles/writeraw":
            self.parca(json.loads(body))
        else:
            raise ValueError(self.path)
        sys.stdout.flush()
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def pyroscope(self, said, body):
        kind = self.headers["content-type"]
        assert said["format"] == "pprof" and kind.startswith("multipart/form-data"), (said, kind)
        form = email.parser.BytesParser().parsebytes(b"Content-Type: " + kind.encode() + b"\r\n\r\n" + body)
        (part,) = form.get_payload()
        assert part.get_param("name", header="content-disposition") == "profile", part.items()
        application, labels = said["name"].rstrip("}").split("{")
        labels = dict(pair.split("=") for pair in labels.split(","))
        self.keep("pyroscope", labels, part.get_payload(decode=True), said=said, application=application)

    def parca(self, request):
        for series in request["series"]:
            labels = {label["name"]: label["value"] for label in series["labels"]["labels"]}
            for sample in series["samples"]:
                self.keep("parca", labels, base64.b64decode(sample["rawProfile"], validate=True))

    def keep(self, kind, labels, pprof, **more):
        file = os.path.join(folder, f"{next(numbers)}-{kind}.pb.gz")
        with open(file, "wb") as kept:
            kept.write(pprof)
        # At once, so that lines of two threads do not mix.
        sys.stdout.write(json.dumps(dict(file=file, kind=kind, labels=labels, **more)) + "\n")

    def log_message(self, *_):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
print(f"listening {server.server_address[1]}", flush=True)
server.serve_forever()
