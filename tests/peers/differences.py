"""Where our answers differ from Triton's, and why: reason → case → (our status, Triton's; 0: it closed the connection).

A difference that is not here fails the test, and so does one that is here and is gone.
"""

from __future__ import annotations

DIFFERENCES: dict[str, dict[str, tuple[int, int]]] = {
    "What the client did wrong is 400 here; Triton says 500, as if the server were broken.": dict.fromkeys(
        (
            "index with bad JSON", "a number as id", "an output without name", "outputs that are no list", "no inputs",
            "inputs that are no list", "bad JSON", "a list", "null", "JSON and more", "a numeric datatype", "no name",
            "no datatype", "no shape", "a shape of another size", "a shape negative", "a shape twice negative",
            "a shape beyond 64 bits", "a shape of floats", "a shape of strings", "a shape of booleans",
            "a shape that is a number", "data too short", "data too long", "data of strings", "data of booleans",
            "data of nulls", "data null", "data an object", "parameters: no object", "parameters: timeout as text",
            "parameters: negative timeout", "parameters: fractional timeout", "parameters: negative priority",
            "parameters: binary output by number", "binary_data by number", "classification -1", "classification '2'",
            "classification 1.5", "a binary size negative", "a binary size text", "a binary size fractional",
            "a header length that is short", "-1 as UINT8", "True as UINT8", "1.5 as UINT8", "True as INT8",
            "1.5 as INT8", "18446744073709551616 as UINT64", "-1 as UINT64", "True as UINT64", "1.5 as UINT64",
            "9223372036854775808 as INT64", "0.5 as INT64", "True as INT64", "1.5 as INT64", "numbers as BOOL",
            "numbers as BYTES", "BYTES that are no UTF-8", "Accept-Encoding gzip, an error",
            "register a region with a negative offset", "register a region with a size as text",
            "register with bad JSON", "shared memory: an output's region too small",
        ),
        (400, 500),
    ),
    "An answer tells where an output was written, as the extension's description has it.": dict.fromkeys(
        ("shared memory: an output", "shared memory: an output in a larger part"), (200, 200)
    ),
    "Another region of the same name is a conflict.": {"shared memory: register it again": (409, 400)},
    "Shared memory that is not there is not found; Triton says 500.": {
        "register a region that is not there": (404, 500),
    },
    "Triton guesses what was meant, or computes with something else than was sent; we tell the mistake.": dict.fromkeys(
        (
            "an output twice", "a key twice", "data nested otherwise", "data ragged", "data beyond FP32",
            "256 as UINT8", "128 as INT8", "-129 as INT8", "an input's parameters that are no object",
            "a header length that is a number and more", "coded: gzip without its end",
        ),
        (400, 200),
    ),
    "A number beyond FP64 is infinite, as Python and C++ read it; Triton's parser refuses it.": {
        "data beyond FP64": (200, 500),
    },
    "Answers hold no more of a client's text than this: ids have 1024 characters at most.": {
        "a long id": (400, 200),
    },
    "An id comes back as it was given; Triton takes an empty one for none.": {"an empty id": (200, 200)},
    "Outputs come in the order in which they were asked for; Triton's come as the backend made them.": {
        "outputs in another order": (200, 200),
    },
    "binary_data_output holds for outputs that do not say otherwise, as its description has it; in Triton only for "
    "requests that name no outputs.": {"binary output of a named one": (200, 200)},
    "Parameters that the server does not know are ignored, as the protocol has it; Triton wants some forms of them.": (
        dict.fromkeys(("parameters: of objects", "parameters: null", "parameters: reserved"), (200, 400))
    ),
    "The sequence extension is not offered: a request that needs it would be answered wrongly. Triton ignores it for "
    "models without state.": {"parameters: sequence": (400, 200)},
    "FP16 may be written in JSON; Triton wants binary tensors.": dict.fromkeys(
        ("FP16 in JSON", "FP16 from JSON to binary", "FP16 from binary to JSON"), (200, 400)
    ),
    "415 is the status for a type or coding that is not understood (RFC 9110, 15.5.16); Triton reads any type, and has "
    "501 for codings.": {
        "Content-Type text/plain": (415, 200),
        "Content-Type image/png": (415, 200),
        "coded: br": (415, 501),
        "coded: two codings": (415, 501),
    },
    "Names of codings have no case (RFC 9110, 8.4.1).": {"coded: GZIP": (200, 501)},
    "* is any coding (RFC 9110, 12.5.3); of equals the faster gzip is taken.": {
        "Accept-Encoding *": (200, 200),
        "Accept-Encoding deflate, gzip": (200, 200),
    },
    "Short answers and binary tensors are not compressed: that would take longer than it saves.": {
        "Accept-Encoding gzip, a short answer": (200, 200),
        "Accept-Encoding gzip, binary": (200, 200),
    },
    "Chunked bodies are not read: the memory for a tensor is made before its first byte arrives.": {
        "a chunked body": (501, 200),
    },
    "Health has a JSON body, which the protocol describes and KServe's client reads; Triton's is empty.": dict.fromkeys(
        ("GET /v2/health/live", "GET /v2/health/ready", "GET /v2/models/pair/ready"), (200, 200)
    ),
    "An unknown model or version is 404 everywhere.": dict.fromkeys(
        (
            "GET /v2/models/nope/ready", "GET /v2/models/nope/stats", "GET /v2/models/pair/versions/2/ready",
            "GET /v2/models/pair/versions/2/stats",
        ),
        (404, 400),
    ),
    "OPTIONS tells the methods (RFC 9110, 9.3.7).": dict.fromkeys(("OPTIONS infer", "OPTIONS model"), (200, 405)),
    "The repository's index has a reason for each model, as its description has it; Triton leaves empty ones out.": (
        dict.fromkeys(("index", "index of ready"), (200, 200))
    ),
    "Models come by signed deployment only, which will not change with time: 403. Triton says 503.": dict.fromkeys(
        ("load", "unload"), (403, 503)
    ),
}  # fmt: skip
